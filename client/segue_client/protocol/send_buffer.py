"""The pieces in which a text goes to the server: cut to size, and kept for as long as they may be needed again."""

from collections import deque


class SendBuffer:
    """A text on its way.

    Pieces that were sent are kept until a ticket stands behind them: after a break they are sent again.
    """

    def __init__(self, size: int, *, joins: bool, keeps: bool) -> None:
        """`size`: how many characters a piece has at most, 1 or more.

        `joins`: whether smaller ones wait until they make up one of that size. `keeps`: whether what was sent may be
        needed again.
        """
        self._size = size
        self._joins = joins
        self._keeps = keeps
        self._waiting: list[str] = []
        """What is too small to be sent."""
        self._waiting_count = 0
        self._unsent: deque[str] = deque()
        self._unconfirmed: deque[str] = deque()
        self.unconfirmed_count = 0
        """How many characters were sent and have no ticket behind them."""
        self.last_confirmed = ""
        """The character before the first one that may be sent again."""

    def add(self, text: str) -> None:
        """Take more of the text."""
        if not text:
            return
        self._waiting.append(text)
        self._waiting_count += len(text)
        if not self._joins or self._waiting_count >= self._size:
            self._cut(keep=self._waiting_count % self._size if self._joins else 0)

    def end(self) -> None:
        """Note that there will be no more."""
        self._cut(keep=0)

    @property
    def is_ready(self) -> bool:
        """Whether there is a piece to send."""
        return bool(self._unsent)

    def send(self) -> str:
        """Return the next piece, which counts as sent."""
        piece = self._unsent.popleft()
        if self._keeps:
            self._unconfirmed.append(piece)
            self.unconfirmed_count += len(piece)
        return piece

    def confirm(self, count: int) -> None:
        """Forget the first `count` characters that were sent: they are behind a ticket."""
        self.unconfirmed_count -= count
        while count:
            piece = self._unconfirmed.popleft()
            if len(piece) > count:
                self._unconfirmed.appendleft(piece[count:])
            self.last_confirmed = piece[min(count, len(piece)) - 1]
            count -= min(count, len(piece))

    def again(self) -> None:
        """Send everything again that has no ticket behind it."""
        self._unsent.extendleft(reversed(self._unconfirmed))
        self._unconfirmed.clear()
        self.unconfirmed_count = 0

    def _cut(self, *, keep: int) -> None:
        """Cut what is waiting, except for its last `keep` characters, into pieces."""
        text, size = "".join(self._waiting), self._size
        end = len(text) - keep
        self._unsent.extend(text[at : min(at + size, end)] for at in range(0, end, size))
        self._waiting, self._waiting_count = ([text[end:]] if keep else []), keep
