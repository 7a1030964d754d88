"""When the characters of many streams arrived. Shared by all load generators; needs the standard library alone."""

import json
import math
from array import array
from dataclasses import asdict, dataclass
from time import perf_counter


@dataclass(frozen=True)
class Load:
    """What a load generator saw. Times are in seconds."""

    streams: int
    """Those that brought text."""
    failed: int
    """Those that ended with an error before any text."""
    characters: int
    messages: int
    seconds: float
    """From the first call to the last message."""
    first_p50: float
    """From a stream's call to its first character."""
    first_p99: float
    gap_p50: float | None
    """Between the messages of one stream that bring text. None where no stream had two."""
    gap_p99: float | None
    client_cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Characters a second of wall-clock."""
        return self.characters / self.seconds

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))


class Arrivals:
    """A record that costs little to keep: a number for each message."""

    def __init__(self) -> None:
        self.characters = 0
        self.failed = 0
        self._first = array("d")
        self._gaps = array("d")

    def take(self, characters: int, called: float, before: float | None) -> float:
        """Note a message of a stream: when it was called, and when the message before came; return the time now."""
        now = perf_counter()
        self.characters += characters
        if before is None:
            self._first.append(now - called)
        else:
            self._gaps.append(now - before)
        return now

    def refused(self) -> None:
        """Note a stream that ended with an error before any text."""
        self.failed += 1

    def load(self, seconds: float, client_cpu_seconds: float) -> Load:
        """Return the summary."""
        first, gaps = sorted(self._first), sorted(self._gaps)
        if not first:
            raise SystemExit("no stream brought a character")
        return Load(
            len(first),
            self.failed,
            self.characters,
            len(first) + len(gaps),
            seconds,
            percentile(first, 50),
            percentile(first, 99),
            percentile(gaps, 50) if gaps else None,
            percentile(gaps, 99) if gaps else None,
            client_cpu_seconds,
        )


def percentile(ordered: "list[float]", percent: float) -> float:
    """Return the least of the ordered values that at least `percent` % of them do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
