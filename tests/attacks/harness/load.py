"""A load generator in a process of its own, on a core of its own where there are two."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attacks.harness.servers import Server

_PROGRAM: Final = "attacks.harness.load_process"
_TESTS: Final = Path(__file__).parents[2]


def cores() -> tuple[frozenset[int] | None, frozenset[int] | None]:
    """Return the cores of the server and those of its clients; None where there is only one for both."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1:
        return None, None
    return frozenset(usable[:-1]), frozenset(usable[-1:])


class LoadProcess:
    """The generator; see `load_process.py` for orders and reports."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def order(self, **order: Any) -> dict[str, Any]:
        """Have one phase of load, and return its report."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        report: dict[str, Any] = json.loads(self._process.stdout.readline())
        return report


@contextmanager
def load(server: Server, on: frozenset[int] | None) -> Iterator[LoadProcess]:
    """Have a load generator for the length of the block."""
    with subprocess.Popen(
        [sys.executable, "-m", _PROGRAM, server.address],
        cwd=_TESTS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        if on:
            os.sched_setaffinity(process.pid, on)
        try:
            yield LoadProcess(process)
        finally:
            process.kill()
