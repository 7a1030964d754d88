"""An evaluation as a table for the terminal and as a dictionary for JSON."""

from typing import Any

from rich.table import Table
from segue_training.evaluation.perplexity import Perplexity
from segue_training.reports.console import figures, perplexities

from segue_export.checks.evaluation import WINDOW, Evaluation


def table(title: str, evaluation: Evaluation) -> Table:
    """Return a table with one row for each way of reading, then one for each baseline."""
    ways = {
        "fresh state": evaluation.fresh,
        "carried state": evaluation.carried,
        f"zeroed every {WINDOW}": evaluation.windows,
        "learning on the way": evaluation.dynamic,
    }
    return perplexities(_present(ways), evaluation.baselines, title=title)


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return the fresh figures, and the others under their names."""
    others = {"carried": evaluation.carried, f"every_{WINDOW}": evaluation.windows, "dynamic": evaluation.dynamic}
    return {
        "part": evaluation.part,
        **figures(evaluation.fresh),
        **{name: figures(result) for name, result in _present(others).items()},
        "baselines": {baseline.name: figures(baseline) for baseline in evaluation.baselines},
    }


def _present(results: dict[str, Perplexity | None]) -> dict[str, Perplexity]:
    return {name: result for name, result in results.items() if result is not None}
