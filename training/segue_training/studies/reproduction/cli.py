"""The command `segue reproduce`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from segue_training.train.threads import share_cores, use_threads

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from segue_training.studies.reproduction.chapters import Counted, Reproduced, Row


@click.command()
@click.option("--only", multiple=True, metavar="ROW", help="A row of the table; an unknown name lists them.")
@click.option("--corpus", default="time-machine", show_default=True, help="d2l's text, or another.")
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
    share_cores()
    from rich.console import Console

    from segue_training.studies.reproduction.chapters import count, rows_named

    use_threads(threads)
    rows = rows_named(only)
    results = list(_train(rows, corpus, seed, steps, Console(stderr=True)))
    counted = () if only else count(corpus)
    if as_json:
        click.echo(json.dumps({"rows": [asdict(r) for r in results], "n_grams": [asdict(c) for c in counted]}))
        return
    _show(results, counted, Console())


def _train(
    rows: "Iterable[Row]", corpus: str, seed: int, steps: int | None, console: "Console"
) -> "Iterator[Reproduced]":
    from segue_training.studies.reproduction.chapters import reproduce as run

    for row in rows:
        with console.status(f"{row.name}: {row.config.steps if steps is None else steps} steps"):
            result = run(row, corpus, seed, lambda _: None, steps)
        console.print(f"{row.name}: perplexity {result.training_perplexity:.3f}, {result.speed:,.0f} tokens/s")
        yield result


def _show(results: "list[Reproduced]", counted: "tuple[Counted, ...]", console: "Console") -> None:
    console.print(_table(results))
    for result in results:
        console.print(result.row.name, *(f"  {text}" for text in result.continuations), sep="\n", markup=False)
    if counted:
        console.print(_counts(counted))


def _table(results: "list[Reproduced]") -> "Table":
    from rich.table import Column, Table

    figures = ("training", "published", "held out", "tokens/s", "on a GPU")
    table = Table(Column("model", no_wrap=True), *(Column(name, justify="right") for name in figures))
    for result in results:
        row = result.row
        table.add_row(
            row.name,
            f"{result.training_perplexity:.3f}",
            "-" if row.published_perplexity is None else f"{row.published_perplexity:.1f}",
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
