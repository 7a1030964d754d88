"""The command `segue reproduce`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from segue_training.studies.reproduction.rows import CORPUS, Row, rows_named
from segue_training.train.threads import import_all, share_cores, use_threads

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from segue_training.recipes import TrainingConfig
    from segue_training.studies.reproduction.chapters import Counted, Reproduced

NOT_COMPARABLE: Final = "* not comparable: published after 4,000 steps on d2l's text; these are {steps:,} on {corpus}"


@click.command()
@click.option("--only", multiple=True, metavar="ROW", help="A row of the table; an unknown name lists them.")
@click.option("--corpus", default=CORPUS, show_default=True, help="d2l's text, or another.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--steps", type=click.IntRange(min=8), help="Steps, instead of d2l's 4,000, to try it.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def reproduce(  # noqa: PLR0913 - one parameter for each option
    *, only: tuple[str, ...], corpus: str, seed: int, steps: int | None, threads: int | None, as_json: bool
) -> None:
    """Train the models of d2l's recurrent chapters and compare them with the published figures.

    All of them take about half an hour on two cores. `training` is d2l's figure, the perplexity on the 10,000 letters
    the models memorize; `held out` is that on the last tenth of the book. `published` and `on a GPU` are d2l's.
    """
    rows = rows_named(only)
    share_cores()
    from rich.console import Console

    from segue_training.studies.reproduction.chapters import configuration, count
    from segue_training.train.stop import interruptible

    use_threads(threads)
    import_all()
    with interruptible():
        runs = [(row, configuration(row, seed, steps)) for row in rows]
        results = list(_train(runs, corpus, Console(stderr=True)))
        counted = () if only else count(corpus)
    if as_json:
        click.echo(json.dumps({"rows": [asdict(r) for r in results], "n_grams": [asdict(c) for c in counted]}))
        return
    _show(results, counted, corpus, Console())


def _train(runs: "Sequence[tuple[Row, TrainingConfig]]", corpus: str, console: "Console") -> "Iterator[Reproduced]":
    from segue_training.studies.reproduction.chapters import reproduce as run
    from segue_training.studies.reproduction.progress import ModelProgress

    for number, (row, config) in enumerate(runs, 1):
        with ModelProgress(f"{row.name} (model {number} of {len(runs)})", config.steps, console) as report:
            result = run(row, corpus, config, report)
        console.print(f"{row.name}: perplexity {result.training_perplexity:.3f}, {result.speed:,.0f} tokens/s")
        yield result


def _show(results: "list[Reproduced]", counted: "tuple[Counted, ...]", corpus: str, console: "Console") -> None:
    console.print(_table(results))
    if any(not result.is_comparable for result in results):
        console.print(NOT_COMPARABLE.format(steps=results[0].steps, corpus=corpus), soft_wrap=True, markup=False)
    for result in results:
        console.print(result.row.name, *(f"  {text}" for text in result.continuations), sep="\n", markup=False)
    if counted:
        console.print(_counts(counted))


def _table(results: "list[Reproduced]") -> "Table":
    from rich.table import Column, Table

    figures = ("training", "published", "held out", "tokens/s", "on a GPU")
    table = Table(Column("model", no_wrap=True), *(Column(name, justify="right") for name in figures))
    for result in results:
        row, mark = result.row, "" if result.is_comparable else "*"
        table.add_row(
            row.name,
            f"{result.training_perplexity:.3f}",
            "-" if row.published_perplexity is None else f"{row.published_perplexity:.1f}{mark}",
            f"{result.validation_perplexity:.2f}",
            f"{result.speed:,.0f}",
            "-" if row.published_speed is None else f"{row.published_speed:,.0f}",
        )
    return table


def _counts(counted: "tuple[Counted, ...]") -> "Table":
    from rich.table import Column, Table

    names = ("n-gram order", "training", "held out", "stored", "possible |V|^n")
    table = Table(*(Column(name, justify="right") for name in names))
    for row in counted:
        figures = f"{row.training_perplexity:.3f}", f"{row.validation_perplexity:.2f}"
        table.add_row(str(row.order), *figures, f"{row.stored:,}", f"{row.possible:,}")
    return table
