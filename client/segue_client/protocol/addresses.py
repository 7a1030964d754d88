"""The addresses that a client was given, and which of them its calls go to."""

from collections.abc import Sequence
from threading import Lock

from segue_client.errors import InvalidRequest


class Addresses:
    """One address or several, of servers that are as good as each other. Any thread may use it."""

    def __init__(self, target: str | Sequence[str]) -> None:
        """`target` is one gRPC name, such as HOST:PORT, or several; raises InvalidRequest where there is none."""
        self.all = (target,) if isinstance(target, str) else tuple(dict.fromkeys(target))
        if not all(self.all) or not self.all:
            raise InvalidRequest(f"the server's address is {target!r}; name one, such as 127.0.0.1:50051, or several")
        self._current = 0
        self._lock = Lock()

    @property
    def current(self) -> str:
        """Where calls go now."""
        return self.all[self._current]

    def leave(self, address: str) -> str:
        """Send no further calls to `address`, which failed; return where they go instead.

        Of many calls that fail at one address, only the first moves on: the others follow it.
        """
        with self._lock:
            if self.all[self._current] == address:
                self._current = (self._current + 1) % len(self.all)
            return self.current
