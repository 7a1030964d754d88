"""The servers under attack: real `segue serve` processes, whose logs and ends are judged as well."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from attacks.harness.finding import Finding
from attacks.harness.process import Process

_START: Final = "from segue_server.cli import serve; serve()"
_STOP_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Server:
    """A process that serves."""

    address: str
    process: Process
    id: int
    log: Path

    @property
    def port(self) -> int:
        """Its port on this machine."""
        return int(self.address.rsplit(":", 1)[1])

    @property
    def metrics(self) -> str:
        """HOST:PORT of its metrics, which `--metrics-port 0` asks for."""
        found = re.search(r"metrics: http://(\S+)/metrics", self.log.read_text())
        assert found, "the server was started without --metrics-port"
        return found[1]

    def log_text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text()


class Serve(Protocol):
    """Starts a server with the given options of `segue serve`."""

    def __call__(
        self,
        *options: str,
        open_files: int | None = None,
        cores: frozenset[int] | None = None,
        program: str = _START,
        models: Path | None = None,
    ) -> AbstractContextManager[Server]:
        """`open_files`: its limit of file descriptors. `cores`: those that it may use. `program`: Python code."""


@dataclass(frozen=True)
class _End:
    """How a server ended."""

    status: int | None
    """Of its exit after SIGTERM; None: it had to be killed."""
    log: str


@dataclass
class Servers:
    """Starts the servers of an attack; afterwards says what none of them may do."""

    models: Path
    folder: Path
    """For logs and state."""
    _started: int = 0
    _ends: list[_End] = field(default_factory=list)

    @contextmanager
    def __call__(
        self,
        *options: str,
        open_files: int | None = None,
        cores: frozenset[int] | None = None,
        program: str = _START,
        models: Path | None = None,
    ) -> Iterator[Server]:
        """See `Serve`."""
        state = self.folder / f"server-{self._started}"
        state.mkdir(parents=True)
        self._started += 1
        log = state / "log"
        limits = ["prlimit", f"--nofile={open_files}"] if open_files else []
        limits += ["taskset", "--cpu-list", ",".join(map(str, sorted(cores)))] if cores else []
        command = [*limits, sys.executable, "-c", program, str(models or self.models), "--port", "0", "--device", "cpu"]
        command += ["--drain-grace", "1", "--sessions", "memory:"]

        with log.open("w") as errors:
            process = subprocess.Popen(
                [*command, *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "SEGUE_STATE": str(state)},
            )
        try:
            assert process.stdout is not None
            ready = re.fullmatch(r"ready: (\S+)\n", process.stdout.readline())
            assert ready, log.read_text()
            yield Server(ready[1], Process(process.pid), process.pid, log)
        finally:
            self._ends.append(_End(_stop(process), log.read_text()))

    def findings(self, attack: str) -> list[Finding]:
        """What must hold for every server, whatever was done to it."""
        tracebacks = sum(end.log.count("Traceback") for end in self._ends)
        raised = [
            line
            for end in self._ends
            for line in re.findall(r"^[\w.]+(?:Error|Exception|Iteration)\b.*", end.log, re.MULTILINE)
        ]
        bad_ends = [end.status for end in self._ends if end.status != 0]
        longest = max((len(end.log) / 1024 for end in self._ends), default=0.0)
        return [
            Finding(
                f"{attack}: tracebacks in the log", tracebacks, "tracebacks", 0, notes="; ".join(sorted(set(raised)))
            ),
            Finding(f"{attack}: ends other than by a clean exit at SIGTERM", len(bad_ends), "servers", 0),
            Finding(f"{attack}: log", longest, "KiB", 64),
        ]


def _stop(process: "subprocess.Popen[str]") -> int | None:
    """Send SIGTERM and return the exit status; None if that did not end the process."""
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    return process.returncode
