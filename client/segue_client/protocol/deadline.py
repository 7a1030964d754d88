"""One time limit over several calls."""

import math
import time
from dataclasses import dataclass
from typing import Final

from segue_client.errors import InvalidRequest

_LONGEST_SECONDS: Final = 1e9
"""Some thirty years. gRPC's clock overflows at eight times as much, and ends such a call at once."""


@dataclass(frozen=True)
class Deadline:
    """A time of the monotonic clock, in seconds; None is never."""

    at: float | None

    @classmethod
    def after(cls, timeout: float | None) -> "Deadline":
        """Return the deadline `timeout` seconds from now; InvalidRequest for what is no number of seconds."""
        if timeout is None or seconds("timeout", timeout) > _LONGEST_SECONDS:
            return cls(None)
        return cls(time.monotonic() + timeout)

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, 0 once it has passed; None without a limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())


def seconds(field: str, value: object) -> float:
    """Return `value`; raise InvalidRequest unless it is a number, at least 0. An infinite one is."""
    if not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise InvalidRequest(f"{field} is {value!r}; choose a number of seconds")
    return value
