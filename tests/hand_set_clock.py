"""A clock for what is told the time."""


class HandSetClock:
    """Shows what it was set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now
