"""A run on the terminal, and its result as JSON."""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from segue_training.data.sources import Sources
from segue_training.evaluation.baselines import Baseline
from segue_training.evaluation.perplexity import Perplexity, to_perplexity
from segue_training.evaluation.sample import Sampler
from segue_training.recipes import TrainingConfig
from segue_training.reports.sources import sources_as_json
from segue_training.text.glyphs import legible, one_line
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint
from segue_training.train.train_state import Evaluation
from segue_training.train.trainer import Progress

SMOOTHING: Final = 0.98
"""Decay rate of the displayed mean loss."""

SAMPLED: Final = 500
"""Characters of the sample at the end of a run."""

GLIMPSE: Final = 80
"""Characters of the sample after each evaluation."""

QUIET: Final = 10.0
"""Minimum seconds between two plain lines."""

MINUTE: Final = 60


class ProgressReport:
    """Displays a run: a bar on a terminal, otherwise a line every few seconds; and a line after each evaluation.

    Use as a context manager, and call it with each step's progress. `history`: the evaluations of a resumed run.
    """

    def __init__(
        self, config: TrainingConfig, vocabulary: Vocabulary, console: Console, history: Sequence[Evaluation] = ()
    ) -> None:
        self._config = config
        self._console = console
        self._sampler = Sampler.of(vocabulary, config.documents)
        self._pace = _Pace(config)
        self._best = _Best(config, history)
        self._printed = time.monotonic()
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

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Display a step."""
        self._loss = _smooth(self._loss, progress.loss)
        self._pace.count(progress.step)
        if progress.start is not None:
            self._best.begin(progress.start)
        if progress.evaluation is not None:
            self._best.add(progress.evaluation)
            self._print_evaluation(progress, progress.evaluation)
        self._bar.update(self._task, completed=progress.step, figures=self._figures())
        if not self._console.is_terminal and time.monotonic() - self._printed >= QUIET:
            self._print(f"step {progress.step:,}  {self._figures()}")

    def say(self, line: str) -> None:
        """Print what is done next, before the first step or after the last, when the bar has nothing left to show."""
        if self._loss is not None:
            self._bar.stop()
        self._print(line)

    def _print_evaluation(self, progress: Progress, now: Evaluation) -> None:
        figures = f"training {now.training:.3f}  validation {now.validation:.3f}"
        self._print(f"step {now.step:,}  {figures}  {self._best.verdict(now)}")
        glimpse = self._sampler(progress.model, GLIMPSE, seed=now.step)
        self._print(f"  {one_line(glimpse)}", style="dim")
        if self._best.is_over and progress.step < self._config.steps:
            self._print(f"stopped early: no gain since step {self._best.step:,}, patience={self._config.patience}")

    def _figures(self) -> str:
        loss = self._loss or 0.0
        shown = f"loss {loss:.3f}  perplexity {to_perplexity(loss):.2f}{self._best.figure}"
        return f"{shown}  {self._pace.figures}"

    def _print(self, line: str, style: str = "") -> None:
        self._printed = time.monotonic()
        self._console.print(Text(line, style), soft_wrap=True)


class _Pace:
    """The speed of a run and its remaining time, measured since it was started or resumed."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._started = self._now = time.monotonic()
        self._first = self._step = -1

    def count(self, step: int) -> None:
        """Record that `step` has just been taken."""
        self._first = step - 1 if self._first < 0 else self._first
        self._step, self._now = step, time.monotonic()

    @property
    def figures(self) -> str:
        config = self._config
        rate = (self._step - self._first) / max(self._now - self._started, 1e-9)
        left = duration((config.steps - self._step) / rate)
        if config.documents == "lines":  # their lengths differ
            return f"{rate:,.1f} steps/s  {left} left"
        return f"{rate * config.batch * config.time:,.0f} {config.alphabet}/s  {left} left"


class _Best:
    """The best evaluation of a run, and how long ago it was."""

    def __init__(self, config: TrainingConfig, history: Sequence[Evaluation]) -> None:
        self._patience = config.patience
        self._keeps_last = config.keep == "last"
        self._nats, self._stale, self.step = math.inf, 0, 0
        self._last = math.inf
        self._count = 0
        for evaluation in history:
            self.add(evaluation)

    def begin(self, start: float) -> None:
        """Compare the loss before the first step with all evaluations."""
        if start <= self._nats:
            self._nats, self._stale, self.step = start, self._count, 0

    def add(self, evaluation: Evaluation) -> None:
        """Compare `evaluation` with the previous ones."""
        self._last = evaluation.validation
        self._count += 1
        if evaluation.validation < self._nats:
            self._nats, self._stale, self.step = evaluation.validation, 0, evaluation.step
        else:
            self._stale += 1

    @property
    def is_over(self) -> bool:
        """Whether the run's patience is used up."""
        return 0 < self._patience <= self._stale

    @property
    def figure(self) -> str:
        """The validation loss of the weights that the run would keep now; "" before the first evaluation."""
        if not self._count:
            return ""
        return f"  validation {self._last:.3f}" if self._keeps_last else f"  best {self._nats:.3f}"

    def verdict(self, evaluation: Evaluation) -> str:
        """Describe `evaluation`, the last one added."""
        if evaluation.step == self.step:
            return "(best so far)"
        without_gain = f"{self._stale} of {self._patience}" if self._patience else f"{self._stale}"
        return f"(best {self._nats:.3f} at step {self.step:,}; {without_gain} without a gain)"


def duration(seconds: float) -> str:
    """Format a time as hours, minutes and seconds: "1:02:03", "2:03"."""
    minutes, rest = divmod(round(seconds), MINUTE)
    hours, minutes = divmod(minutes, MINUTE)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def perplexities(
    ways: Mapping[str, Perplexity], baselines: Iterable[Baseline] = (), *, title: str | None = None
) -> Table:
    """Return a table with one row for each way of scoring, then one for each baseline."""
    table = Table("", "nats", "bits", "perplexity", "characters", "unknown", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in ways.items():
        table.add_row(Text(name), *_units(row), f"{row.characters:,}", f"{row.unknown:,}")
    table.add_section()
    for baseline in baselines:
        table.add_row(baseline.name, *_units(baseline))
    return table


def _units(result: Perplexity | Baseline) -> tuple[str, str, str]:
    return f"{result.nats:.4f}", f"{result.bits:.4f}", f"{result.perplexity:.3f}"


def show(checkpoint: Checkpoint, console: Console) -> None:
    """Print a sample of the model's text and its validation figures."""
    sampler = Sampler.of(checkpoint.vocabulary, checkpoint.documents)
    text = sampler(checkpoint.build_model(), SAMPLED)
    console.print(Text(legible(text.strip())), "", sep="\n", soft_wrap=True)
    validation = checkpoint.validation
    console.print(perplexities({"fresh state": validation.fresh, "carried state": validation.carried}))
    console.print(Text(kept(checkpoint)), soft_wrap=True)
    if has_learned_nothing(checkpoint):
        console.print("worse than guessing every character alike: set a smaller learning_rate", soft_wrap=True)


def has_learned_nothing(checkpoint: Checkpoint) -> bool:
    """Return whether every evaluation was worse than equal probabilities."""
    uniform = math.log(len(checkpoint.vocabulary))
    return bool(checkpoint.history) and min(each.validation for each in checkpoint.history) > uniform


def kept(checkpoint: Checkpoint) -> str:
    """Say which step's weights are in `checkpoint`, and why."""
    history, steps, taken = checkpoint.history, checkpoint.steps, checkpoint.taken
    best = min(history, key=lambda evaluation: evaluation.validation, default=None)
    if checkpoint.training.keep == "last" and best is not None:
        return (
            f"kept: the last weights, of step {steps:,}, as keep=last says, at {history[-1].validation:.3f}; the best "
            f"evaluation was {best.validation:.3f}, at step {best.step:,}"
        )
    if steps == 0:
        return f"kept: the weights that the run began with; none of {taken:,} steps made them better"
    return f"kept: the weights of step {steps:,}, the best of {len(history)} evaluations in {taken:,} steps"


def summary(
    checkpoint: Checkpoint, folder: str, seconds: float, report: Path | None = None, sources: Sources | None = None
) -> str:
    """Return a run's result as JSON; `report` is the path of its HTML report, `sources` what the text was read from."""
    return json.dumps(
        {
            "checkpoint": folder,
            "report": None if report is None else str(report),
            "recipe": checkpoint.recipe,
            "corpus": asdict(checkpoint.corpus),
            **sources_as_json(sources or Sources()),
            "steps": checkpoint.steps,
            "taken": checkpoint.taken,
            "keep": checkpoint.training.keep,
            "base": None if checkpoint.base is None else asdict(checkpoint.base),
            "seconds": round(seconds, 3),
            "validation": {
                "fresh": figures(checkpoint.validation.fresh),
                "carried": figures(checkpoint.validation.carried),
            },
            "history": [asdict(evaluation) for evaluation in checkpoint.history],
        }
    )


def figures(result: Perplexity | Baseline) -> dict[str, Any]:
    """Return a score's figures for JSON, without its name."""
    figures = asdict(result) | {"bits": result.bits, "perplexity": result.perplexity}
    return {name: value for name, value in figures.items() if name != "name"}


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else SMOOTHING * before + (1 - SMOOTHING) * now
