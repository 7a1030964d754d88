"""What a person sees of a run on a terminal, and what a script reads of it."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from segue_training.evaluation.perplexity import Perplexity
from segue_training.evaluation.sample import Sampler
from segue_training.recipes import TrainingConfig
from segue_training.text.glyphs import legible, one_line
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint
from segue_training.train.train_state import Evaluation
from segue_training.train.trainer import Progress

SMOOTHING: Final = 0.98
"""Share of the displayed loss that each step leaves as it was."""

SAMPLED: Final = 500
"""Characters of the sample that ends a run."""

GLIMPSE: Final = 80
"""Characters of the sample after each evaluation."""

QUIET: Final = 10.0
"""Seconds between two plain lines."""

MINUTE: Final = 60


class ProgressReport:
    """Displays a run: a bar on a terminal, otherwise a line every few seconds; and a line after each evaluation.

    Use as a context manager, and call it with each step's progress. `history` holds the evaluations of a run that
    is resumed.
    """

    def __init__(
        self, config: TrainingConfig, vocabulary: Vocabulary, console: Console, history: Sequence[Evaluation] = ()
    ) -> None:
        self._config = config
        self._console = console
        self._sampler = Sampler.of(vocabulary, config.documents)
        self._pace = _Pace(config)
        self._best = _Best(config.patience, history)
        self._spoke = time.monotonic()
        self._loss: float | None = None
        self._bar = Bar(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=config.steps, figures="")

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
        self._pace.count(progress.step)
        if progress.evaluation is not None:
            self._best.add(progress.evaluation)
            self._tell_evaluation(progress, progress.evaluation)
        self._bar.update(self._task, completed=progress.step, figures=self._figures())
        if not self._console.is_terminal and time.monotonic() - self._spoke >= QUIET:
            self._print(f"step {progress.step:,}  {self._figures()}")

    def _tell_evaluation(self, progress: Progress, now: Evaluation) -> None:
        figures = f"training {now.training:.3f}  validation {now.validation:.3f}"
        self._print(f"step {now.step:,}  {figures}  {self._best.verdict(now)}")
        glimpse = self._sampler(progress.model, GLIMPSE, seed=now.step)
        self._print(f"  {one_line(glimpse)}", style="dim")
        if self._best.is_over and progress.step < self._config.steps:
            best = self._best
            self._print(f"stopped early: no gain since step {best.step:,}, patience={self._config.patience}")

    def _figures(self) -> str:
        loss = Perplexity(self._loss or 0.0, 0, 0)
        shown = f"loss {loss.nats:.3f}  perplexity {loss.perplexity:.2f}{self._best.figure}"
        return f"{shown}  {self._pace.figures}"

    def _print(self, line: str, style: str = "") -> None:
        self._spoke = time.monotonic()
        self._console.print(Text(line, style), soft_wrap=True)


class _Pace:
    """How fast a run goes, and what time it has left: counted from where it began or was resumed."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._began = self._now = time.monotonic()
        self._first = self._step = -1

    def count(self, step: int) -> None:
        """Note that `step` was taken just now."""
        self._first = step - 1 if self._first < 0 else self._first
        self._step, self._now = step, time.monotonic()

    @property
    def figures(self) -> str:
        config = self._config
        rate = (self._step - self._first) / max(self._now - self._began, 1e-9)
        left = duration((config.steps - self._step) / rate)
        if config.documents == "lines":  # which differ in length
            return f"{rate:,.1f} steps/s  {left} left"
        return f"{rate * config.batch * config.time:,.0f} {config.alphabet}/s  {left} left"


class _Best:
    """The best evaluation of a run, and how long ago it was."""

    def __init__(self, patience: int, history: Sequence[Evaluation]) -> None:
        self._patience = patience
        self._nats, self._stale, self.step = math.inf, 0, 0
        for evaluation in history:
            self.add(evaluation)

    def add(self, evaluation: Evaluation) -> None:
        """Compare `evaluation` with those before it."""
        if evaluation.validation < self._nats:
            self._nats, self._stale, self.step = evaluation.validation, 0, evaluation.step
        else:
            self._stale += 1

    @property
    def is_over(self) -> bool:
        """Whether the run's patience is at an end."""
        return 0 < self._patience <= self._stale

    @property
    def figure(self) -> str:
        return f"  best {self._nats:.3f}" if self.step else ""

    def verdict(self, evaluation: Evaluation) -> str:
        """Say how `evaluation`, the one just added, compares."""
        if evaluation.step == self.step:
            return "(best so far)"
        without_gain = f"{self._stale} of {self._patience}" if self._patience else f"{self._stale}"
        return f"(best {self._nats:.3f} at step {self.step:,}; {without_gain} without a gain)"


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds: "1:02:03", "2:03"."""
    minutes, rest = divmod(round(seconds), MINUTE)
    hours, minutes = divmod(minutes, MINUTE)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def perplexities(figures: dict[str, Perplexity]) -> Table:
    """Lay out one row of figures for each way of scoring."""
    table = Table("", "nats", "bits", "perplexity", "characters", "unknown")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in figures.items():
        table.add_row(
            Text(name),
            f"{row.nats:.4f}",
            f"{row.bits:.4f}",
            f"{row.perplexity:.3f}",
            f"{row.characters:,}",
            f"{row.unknown:,}",
        )
    return table


def show(checkpoint: Checkpoint, console: Console) -> None:
    """Print a sample of the model's text and its validation figures."""
    sampler = Sampler.of(checkpoint.vocabulary, checkpoint.documents)
    text = sampler(checkpoint.build_model(), SAMPLED)
    console.print(Text(legible(text.strip())), "", sep="\n", soft_wrap=True)
    validation = checkpoint.validation
    console.print(perplexities({"fresh state": validation.fresh, "carried state": validation.carried}))


def summary(checkpoint: Checkpoint, folder: str, seconds: float, report: Path | None = None) -> str:
    """Return a run's result as JSON; `report` is where its HTML report was written."""
    return json.dumps(
        {
            "checkpoint": folder,
            "report": None if report is None else str(report),
            "recipe": checkpoint.recipe,
            "corpus": asdict(checkpoint.corpus),
            "steps": checkpoint.steps,
            "seconds": round(seconds, 3),
            "validation": {
                "fresh": figures(checkpoint.validation.fresh),
                "carried": figures(checkpoint.validation.carried),
            },
            "history": [asdict(evaluation) for evaluation in checkpoint.history],
        }
    )


def figures(result: Perplexity) -> dict[str, Any]:
    """Return what a script reads of a perplexity."""
    return asdict(result) | {"bits": result.bits, "perplexity": result.perplexity}


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else SMOOTHING * before + (1 - SMOOTHING) * now
