"""Progress on the terminal, and the results as tables and JSON."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from segue_training.studies.agreement.config import ARCHITECTURES, DESCRIPTIONS, AgreementConfig, Curriculum
from segue_training.studies.agreement.experiment import Outcome, Report, Results, trials


@contextmanager
def progress(config: AgreementConfig, console: Console) -> Iterator[Report]:
    """Print each outcome as a line, with a progress bar on a terminal."""
    columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=len(trials(config)))

        def report(outcome: Outcome) -> None:
            trial = outcome.trial
            shares = " ".join(f"{accuracy:.2f}" for accuracy in outcome.accuracies)
            line = f"{trial.architecture.upper():4} seed {trial.seed}, {trial.curriculum}: {shares}"
            console.print(line, soft_wrap=True, highlight=False)
            bar.advance(task)

        yield report


def accuracies(results: Results, curriculum: Curriculum) -> Table:
    """Return a table of the mean accuracy over the seeds by distance, one row per architecture."""
    config = results.config
    title = f"Right verbs by distance. Training: {DESCRIPTIONS[curriculum]}"
    table = Table("model", title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("parameters", *map(str, config.distances)):
        table.add_column(name, justify="right")
    for architecture in ARCHITECTURES:
        means = [f"{mean:.2f}" for mean in results.means(curriculum, architecture)]
        parameters = results.of(curriculum, architecture)[0].parameters
        table.add_row(architecture.upper(), f"{parameters:,}", *means)
    return table


def results_as_json(results: Results) -> str:
    """Return the configuration and every outcome as JSON."""
    return json.dumps(asdict(results))
