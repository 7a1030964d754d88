"""The results as tables for a person and as JSON for a script."""

import json
from dataclasses import asdict

from rich import box
from rich.table import Table

from segue_training.studies.agreement.config import ARCHITECTURES, DESCRIPTIONS, Curriculum
from segue_training.studies.agreement.experiment import Results


def accuracies(results: Results, curriculum: Curriculum) -> Table:
    """Lay out one row for each kind of model: its mean accuracy over the seeds, by distance."""
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
