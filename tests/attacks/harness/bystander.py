"""The other clients of a server under attack, and what they notice of it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attacks.harness.finding import Finding
from attacks.harness.servers import Server

_PROGRAM: Final = Path(__file__).with_name("bystander_process.py")


@dataclass(frozen=True)
class Report:
    """What a bystander saw in a span of time; times are in seconds."""

    texts: int
    scores: int
    errors: dict[str, int]
    longest_gap: float
    """Between two messages of a stream, or its call and the first."""
    health_checks: int
    health_p99: float


class Bystander:
    """A process that calls the server all the time."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def settled(self) -> Report:
        """Return what it saw since the last report, once calls that begin now have been answered."""
        return self._ask("settled")

    def quiet(self, seconds: float) -> Report:
        """Return what it sees in a time without an attack."""
        self.settled()
        time.sleep(seconds)
        return self._ask("now")

    def _ask(self, line: str) -> Report:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return Report(**json.loads(self._process.stdout.readline()))


@contextmanager
def bystander(server: Server, tenant: str = "", cores: frozenset[int] | None = None) -> Iterator[Bystander]:
    """Have a bystander for the length of the block."""
    pinned = ["taskset", "-c", ",".join(map(str, sorted(cores)))] if cores else []
    command = [*pinned, sys.executable, str(_PROGRAM), server.address, tenant]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Bystander(process)
        finally:
            process.kill()


def undisturbed(attack: str, quiet: Report, seen: Report, gap: float | None = None) -> list[Finding]:
    """What a bystander must not notice. `gap`: the longest that is allowed, in s; None: twice that without attack."""
    allowed = max(2 * quiet.longest_gap, 0.1) if gap is None else gap
    return [
        Finding(
            f"{attack}: a bystander's calls that failed",
            sum(seen.errors.values()),
            "calls",
            0,
            notes=str(seen.errors or ""),
        ),
        Finding(
            f"{attack}: a bystander's calls that were answered",
            seen.scores + seen.health_checks,
            "calls",
            2,
            at_least=True,
        ),
        Finding(f"{attack}: a bystander's longest gap", seen.longest_gap, "s", allowed, by_clock=True),
        Finding(f"{attack}: a bystander's health checks, p99", 1e3 * seen.health_p99, "ms", 100, by_clock=True),
    ]
