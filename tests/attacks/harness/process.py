"""What a process holds and has used, from /proc."""

import os
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Process:
    """A process that runs; sizes are in MiB."""

    def __init__(self, process_id: int) -> None:
        self._proc = Path("/proc") / str(process_id)

    @property
    def resident(self) -> float:
        """Physical memory now."""
        return self._kilobytes("VmRSS") / 1024

    @property
    def peak(self) -> float:
        """The most physical memory since the start, or since `forget_peak`."""
        return self._kilobytes("VmHWM") / 1024

    def forget_peak(self) -> None:
        """Let the peak be what is resident now."""
        (self._proc / "clear_refs").write_text("5")

    @property
    def files(self) -> int:
        """Open file descriptors."""
        return len(list((self._proc / "fd").iterdir()))

    @property
    def threads(self) -> int:
        """Threads that exist now."""
        return len(list((self._proc / "task").iterdir()))

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = (self._proc / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def main_thread_seconds(self) -> float:
        """The same of the first thread alone, to the nanosecond."""
        task = self._proc / "task" / self._proc.name
        return int((task / "schedstat").read_text().split()[0]) / 1e9

    def _kilobytes(self, key: str) -> int:
        lines = (self._proc / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


class Growth:
    """Memory beyond what a process held when this was made."""

    def __init__(self, process: Process) -> None:
        self._process = process
        process.forget_peak()
        self._before = process.resident

    @property
    def peak(self) -> float:
        """The most so far, in MiB."""
        return self._process.peak - self._before

    @property
    def now(self) -> float:
        """What is left of it now, in MiB."""
        return self._process.resident - self._before
