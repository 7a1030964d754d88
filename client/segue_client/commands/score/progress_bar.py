"""A progress bar on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """Shows how many bytes were read, of how many, where `total` is known. Nothing unless it `is_shown`."""

    def __init__(self, total: int | None, *, is_shown: bool) -> None:
        self._bar = Progress(
            TextColumn("read"),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not is_shown,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=total)
        self._shares_terminal = is_shown and sys.stdout.isatty()

    def note(self, count: int) -> None:
        """Note that so many more bytes were read, from any thread."""
        self._bar.advance(self._task, count)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the terminal to whoever writes to standard output."""
        if not self._shares_terminal:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
