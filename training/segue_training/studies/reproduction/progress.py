"""The progress of the reproduction: which model of how many, and its steps."""

import time
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from segue_training.evaluation.perplexity import to_perplexity
from segue_training.train.trainer import Progress

QUIET: Final = 10.0
"""Seconds between two plain lines."""


class ModelProgress:
    """A bar on a terminal, otherwise a line every few seconds. Call it with each step's progress."""

    def __init__(self, title: str, steps: int, console: Console) -> None:
        self._title = title
        self._steps = steps
        self._console = console
        self._printed = time.monotonic()
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=steps, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, now: Progress) -> None:
        """Show a step."""
        figures = f"perplexity {to_perplexity(now.loss):.3f}"
        self._bar.update(self._task, completed=now.step, figures=figures)
        if not self._console.is_terminal and time.monotonic() - self._printed >= QUIET:
            self._printed = time.monotonic()
            self._console.print(f"{self._title}: step {now.step:,} of {self._steps:,}, {figures}", soft_wrap=True)
