"""The options of `segue serve` that an attack sets, so that its small form needs little memory and time."""


def memory_budget(mebibytes: int) -> tuple[str, ...]:
    """Bound what requests, replies, buffers and prompts hold together."""
    return ("--memory-mb", str(mebibytes))


def stall_timeout(seconds: float) -> tuple[str, ...]:
    """Bound how long a client may leave its reply unread."""
    return ("--stall-timeout", str(seconds))


def arrival_timeout(seconds: float) -> tuple[str, ...]:
    """Bound how long a request may take to arrive."""
    return ("--request-timeout", str(seconds))


def idle_timeout(seconds: float) -> tuple[str, ...]:
    """Bound how long a stream of text may bring none."""
    return ("--idle-timeout", str(seconds))


def places(count: int) -> tuple[str, ...]:
    """Bound the sequences at once."""
    return ("--max-sequences", str(count))
