"""One time limit over several calls."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """A moment of the monotonic clock, in seconds; None is never."""

    at: float | None

    @classmethod
    def after(cls, timeout: float | None) -> "Deadline":
        """Return the moment `timeout` seconds from now."""
        return cls(None if timeout is None else time.monotonic() + timeout)

    @property
    def left(self) -> float | None:
        """Seconds until then, 0 once it has passed; None without a limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())
