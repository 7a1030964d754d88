"""What a person sees of an evaluation, and what a script reads of it."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table
from segue_training.evaluation.baselines import Baseline
from segue_training.evaluation.perplexity import Perplexity

from segue_export.checks.evaluation import WINDOW, Evaluation


def table(title: str, evaluation: Evaluation) -> Table:
    """Lay out a row for each way of reading, and one for each baseline."""
    laid_out = Table("", "nats", "bits", "perplexity", "characters", "unknown", title=title, title_justify="left")
    for column in laid_out.columns[1:]:
        column.justify = "right"
    for name, result in _ways(evaluation):
        laid_out.add_row(name, *_figures(result), f"{result.characters:,}", f"{result.unknown:,}")
    laid_out.add_section()
    for baseline in evaluation.baselines:
        laid_out.add_row(baseline.name, *_figures(baseline))
    return laid_out


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return what a script reads: the fresh figures, and under its name each of the others that there is."""
    others = {"carried": evaluation.carried, f"every_{WINDOW}": evaluation.windows, "dynamic": evaluation.dynamic}
    return {
        "part": evaluation.part,
        **_json(evaluation.fresh),
        **{name: _json(result) for name, result in others.items() if result is not None},
        "baselines": {baseline.name: _json(baseline) for baseline in evaluation.baselines},
    }


def _ways(evaluation: Evaluation) -> Iterator[tuple[str, Perplexity]]:
    yield "fresh state", evaluation.fresh
    if evaluation.carried:
        yield "carried state", evaluation.carried
    if evaluation.windows:
        yield f"zeroed every {WINDOW}", evaluation.windows
    if evaluation.dynamic:
        yield "learning on the way", evaluation.dynamic


def _figures(result: Perplexity | Baseline) -> tuple[str, str, str]:
    return f"{result.nats:.4f}", f"{result.bits:.4f}", f"{result.perplexity:.3f}"


def _json(result: Perplexity | Baseline) -> dict[str, Any]:
    figures = asdict(result) | {"bits": result.bits, "perplexity": result.perplexity}
    return {name: value for name, value in figures.items() if name != "name"}
