"""The command `segue agreement`.

`segue --help` imports this module even without torch installed; the command itself imports what needs torch.
"""

import os
from pathlib import Path
from typing import Any

import click

from segue_training.output_folder import make_writable, unless_empty
from segue_training.train.threads import import_all


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="runs/agreement", show_default=True, help="The folder.")
@click.option("--seed", type=int, help="Seed of the first model of each kind.  [default: 0]")
@click.option("--steps", type=int, help="Training steps of each model.  [default: 1500]")
@click.option("--repeats", type=int, help="Models of each kind.  [default: 3]")
@click.option("--processes", type=click.IntRange(min=1), help="Models trained side by side.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def agreement(*, out: Path, processes: int | None, as_json: bool, **settings: Any) -> None:
    """Measure how far an MLP, an RNN, a GRU and an LSTM carry the number of a subject to its verb.

    Trains models of equal size on "the cat, ... was full" and "the cats, ... were full", prints how often each chooses
    the right verb at each distance, and writes the plot to agreement.svg and agreement.png.
    """
    from rich.console import Console

    from segue_training.atomic import write_atomically
    from segue_training.studies.agreement.config import CURRICULA, AgreementConfig
    from segue_training.studies.agreement.experiment import run
    from segue_training.studies.agreement.picture import draw, render
    from segue_training.studies.agreement.report import accuracies, progress, results_as_json
    from segue_training.train.stop import interruptible

    config = AgreementConfig(**{name: value for name, value in settings.items() if value is not None})
    import_all()
    with interruptible(), unless_empty(out):
        make_writable(out)
        with progress(config, Console(stderr=True)) as report:
            results = run(config, report, processes=processes or os.cpu_count() or 1)
        figure = draw(results)
        write_atomically(out / "agreement.svg", render(figure, "svg"))
        write_atomically(out / "agreement.png", render(figure, "png"))
    if as_json:
        click.echo(results_as_json(results))
    else:
        for curriculum in CURRICULA:
            Console().print(accuracies(results, curriculum))
        click.echo(f"plot: {out / 'agreement.svg'} and .png")
