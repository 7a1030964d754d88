"""What a benchmark runs on, and what a process has used of it (Linux: read from /proc)."""

import os
import platform
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def hardware() -> str:
    """Name the processor, its vector instructions, the cores that this process may use, and the system."""
    information = Path("/proc/cpuinfo").read_text()
    found = re.search(r"model name\s*: (.*)", information)
    wide = "AVX-512" if "avx512f" in information else "AVX2" if "avx2" in information else "no AVX2"
    name = found[1] if found else platform.machine()
    return f"{name} ({wide}), {len(os.sched_getaffinity(0))} cores, {platform.system()}"


def cpu_seconds(process_id: int) -> float:
    """Return user and system time so far of a process and of those that it has started and that still run."""
    return sum(_own_cpu_seconds(member) for member in _family(process_id))


def resident_bytes(process_id: int) -> int:
    """Return the physical memory of a process and of those that it has started."""
    return sum(int(Path(f"/proc/{member}/statm").read_text().split()[1]) * _PAGE for member in _family(process_id))


class Peak:
    """The most physical memory that was seen, in bytes."""

    def __init__(self, process_id: int) -> None:
        self._process_id = process_id
        self.bytes = 0
        self.look()

    def look(self) -> None:
        """Read the memory now."""
        self.bytes = max(self.bytes, resident_bytes(self._process_id))


@contextmanager
def watched_memory(process_id: int, interval: float = 0.05) -> Iterator[Peak]:
    """Look at the memory of a process every `interval` seconds for as long as the block runs."""
    peak, done = Peak(process_id), threading.Event()

    def look_on() -> None:
        while not done.wait(interval):
            peak.look()

    thread = threading.Thread(target=look_on)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
        peak.look()


def _own_cpu_seconds(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _family(process_id: int) -> Iterator[int]:
    """Yield a process and its descendants."""
    yield process_id
    for children in Path(f"/proc/{process_id}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # threads come and go
            for child in children.read_text().split():
                yield from _family(int(child))
