"""What a person sees of a run: its progress, a sample, and the validation figures."""

import json
import time
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from charlm_training.checkpoint import Checkpoint
from charlm_training.evaluate import Perplexity
from charlm_training.loop import Progress
from charlm_training.sample import sample

SMOOTHING: Final = 0.98
"""Share of the displayed loss that each step leaves as it was."""

SAMPLED: Final = 500
"""Characters of the sample."""

QUIET: Final = 10.0
"""Seconds between two plain lines."""


class ProgressReport:
    """Displays a run: a bar on a terminal, otherwise a line every few seconds.

    Use as a context manager, and call it with each step's progress.
    """

    def __init__(self, steps: int, characters_per_step: int, console: Console) -> None:
        self._characters_per_step = characters_per_step
        self._console = console
        self._began = self._spoke = time.monotonic()
        self._loss: float | None = None
        self._validation = ""
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=steps, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show where the run stands."""
        self._loss = _smooth(self._loss, progress.loss)
        if progress.validation is not None:
            self._validation = f"  validation {progress.validation:.3f}"
        self._bar.update(self._task, completed=progress.step, figures=self._figures(progress.step))
        if not self._console.is_terminal and time.monotonic() - self._spoke >= QUIET:
            self._spoke = time.monotonic()
            self._console.print(f"step {progress.step}  {self._figures(progress.step)}", soft_wrap=True)

    def _figures(self, step: int) -> str:
        rate = step * self._characters_per_step / max(time.monotonic() - self._began, 1e-9)
        loss = Perplexity(self._loss or 0.0, 0, 0)
        shown = f"loss {loss.nats:.3f}  perplexity {loss.perplexity:.2f}{self._validation}"
        return f"{shown}  {rate:,.0f} characters/s"


def perplexities(figures: dict[str, Perplexity]) -> Table:
    """Lay out one row of figures for each way of scoring."""
    table = Table("", "nats", "bits", "perplexity", "characters", "unknown")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in figures.items():
        table.add_row(
            name,
            f"{row.nats:.4f}",
            f"{row.bits:.4f}",
            f"{row.perplexity:.3f}",
            f"{row.characters:,}",
            f"{row.unknown:,}",
        )
    return table


def show(checkpoint: Checkpoint, console: Console) -> None:
    """Print a sample of the model's text and its validation figures."""
    text = sample(checkpoint.build_model(), checkpoint.vocabulary, checkpoint.begin, length=SAMPLED)
    console.print(Text(text.strip()), "", sep="\n", soft_wrap=True)
    validation = checkpoint.validation
    console.print(perplexities({"fresh state": validation.fresh, "carried state": validation.carried}))


def summary(checkpoint: Checkpoint, folder: str, seconds: float) -> str:
    """Return a run's result as JSON."""
    return json.dumps(
        {
            "checkpoint": folder,
            "recipe": checkpoint.recipe,
            "corpus": asdict(checkpoint.corpus),
            "steps": checkpoint.steps,
            "seconds": round(seconds, 3),
            "validation": {
                "fresh": figures(checkpoint.validation.fresh),
                "carried": figures(checkpoint.validation.carried),
            },
        }
    )


def figures(result: Perplexity) -> dict[str, Any]:
    """Return what a script reads of a perplexity."""
    return asdict(result) | {"bits": result.bits, "perplexity": result.perplexity}


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else SMOOTHING * before + (1 - SMOOTHING) * now
