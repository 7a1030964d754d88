"""A text on its way to the server: cut into pieces, which are kept as long as they may have to be sent again."""

from collections import deque


class SendBuffer:
    """Cuts a text into pieces. Pieces that were sent are kept until a ticket confirms them."""

    def __init__(self, size: int, *, joins: bool, keeps: bool) -> None:
        """`size`: the most characters of a piece, 1 or more.

        `joins`: whether smaller pieces wait until they make up one of that size. `keeps`: whether pieces may have to be
        sent again.
        """
        self._size = size
        self._joins = joins
        self._keeps = keeps
        self._waiting: list[str] = []
        """Text too short to be sent yet."""
        self._waiting_count = 0
        self._unsent: deque[str] = deque()
        self._unconfirmed: deque[str] = deque()
        self.unconfirmed_count = 0
        """How many sent characters no ticket has confirmed."""
        self.last_confirmed = ""
        """The character before the unconfirmed ones."""

    def add(self, text: str) -> None:
        """Append `text`."""
        if not text:
            return
        self._waiting.append(text)
        self._waiting_count += len(text)
        if not self._joins or self._waiting_count >= self._size:
            self._cut(keep=self._waiting_count % self._size if self._joins else 0)

    def end(self) -> None:
        """Note the end of the text."""
        self._cut(keep=0)

    @property
    def is_ready(self) -> bool:
        """Whether there is a piece to send."""
        return bool(self._unsent)

    def next_piece(self) -> str:
        """Return the next piece, which then counts as sent."""
        piece = self._unsent.popleft()
        if self._keeps:
            self._unconfirmed.append(piece)
            self.unconfirmed_count += len(piece)
        return piece

    def confirm(self, count: int) -> None:
        """Forget the first `count` unconfirmed characters: a ticket covers them."""
        self.unconfirmed_count -= count
        while count:
            piece = self._unconfirmed.popleft()
            if len(piece) > count:
                self._unconfirmed.appendleft(piece[count:])
            self.last_confirmed = piece[min(count, len(piece)) - 1]
            count -= min(count, len(piece))

    def resend(self) -> None:
        """Send all unconfirmed pieces again."""
        self._unsent.extendleft(reversed(self._unconfirmed))
        self._unconfirmed.clear()
        self.unconfirmed_count = 0

    def _cut(self, *, keep: int) -> None:
        """Cut the waiting text, except for its last `keep` characters, into pieces."""
        text, size = "".join(self._waiting), self._size
        end = len(text) - keep
        self._unsent.extend(text[at : min(at + size, end)] for at in range(0, end, size))
        self._waiting, self._waiting_count = ([text[end:]] if keep else []), keep
