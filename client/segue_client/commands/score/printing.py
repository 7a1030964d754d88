"""Rows on standard output, and a progress bar on standard error."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from segue_client.commands.render import (
    console,
    no_score_cells,
    print_row,
    print_surprisal_legend,
    printable,
    score_cells,
    score_headings,
    surprisal_text,
)
from segue_client.commands.score.rows import Row, score_fields, totals
from segue_client.messages.candidates import Ranking
from segue_client.messages.score import Score


class JsonPrinter:
    """Prints one object per line."""

    def row(self, row: Row) -> None:
        """Print a row."""
        print_json(row.fields())

    def end(self) -> None:
        """Print nothing more."""


class TablePrinter:
    """Prints columns of numbers, the name and the text of each row; at the end the total of several.

    With `in_colour` the texts are coloured by surprisal.
    """

    def __init__(self, *, with_total: bool, in_colour: bool) -> None:
        self._with_total = with_total
        self._console = console(forced=True) if in_colour else None
        self._count = 0
        self._total = Score()

    def row(self, row: Row) -> None:
        """Print a row, and the headings before the first."""
        if not self._count:
            click.secho(f"{score_headings()}  text", bold=True)
        self._count += 1
        self._total += totals(row.score)
        if row.error is not None:
            click.echo(f"{no_score_cells()}  {printable(row.error)}")
            return
        cells = printable(f"{score_cells(row.score)}  {row.name}")
        if self._console:
            coloured = surprisal_text(row.score.text.replace("\n", "\u240a"), row.score.log_probabilities)
            print_row(cells, coloured, self._console)
            return
        text = printable(row.excerpt.removesuffix("\n")).replace("\n", "\u240a")
        if text and sys.stdout.isatty():
            print_row(cells, Text(text), console())
        else:
            click.echo(f"{cells}  {text}" if row.excerpt else cells)

    def end(self) -> None:
        """Print the total, and what the colours mean."""
        if self._with_total and self._count > 1:
            click.secho(f"{score_cells(self._total)}  together", bold=True)
        if self._console:
            print_surprisal_legend(self._console)


class TerminalPainter:
    """Prints whole texts one below the other, coloured by surprisal, as they are scored."""

    def __init__(self, printing: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Paint on standard output; `printing` surrounds all that is printed."""
        self._printing = printing
        self._console: Console = console(forced=True)
        self._last = "\n"

    def begin(self, name: str) -> None:
        """Begin a text on a new line."""
        del name
        self._end_line()

    def add(self, part: Score) -> None:
        """Print the next part of the text."""
        with self._printing():
            self._console.print(surprisal_text(part.text, part.log_probabilities), end="")
        self._last = part.text[-1:] or self._last

    def end(self) -> None:
        """Print what the colours mean."""
        self._end_line()
        with self._printing():
            print_surprisal_legend(self._console)

    def _end_line(self) -> None:
        if self._last != "\n":
            with self._printing():
                click.echo()
        self._last = "\n"


class Bar(Progress):
    """Shows how many bytes were read, and out of how many if `total` is known; nothing unless `is_shown`."""

    def __init__(self, total: int | None, *, is_shown: bool) -> None:
        super().__init__(
            TextColumn("read"),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not is_shown,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bytes = self.add_task("", total=total)
        self._shares_terminal = is_shown and sys.stdout.isatty()

    def note(self, count: int) -> None:
        """Add `count` bytes; any thread may call it."""
        self.advance(self._bytes, count)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Hide the bar while the block writes to the same terminal."""
        if not self._shares_terminal:
            yield
            return
        self.stop()
        try:
            yield
        finally:
            self.start()


def json_line(value: object) -> str:
    """Return JSON in one line; lone surrogates, which UTF-8 cannot encode, are escaped."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return line


def print_json(fields: dict[str, object]) -> None:
    """Print one object as a line."""
    click.echo(json_line(fields))


_CANDIDATE_COLUMNS: Final = f"{'probability':>12}{'bits':>10}{'bits/char':>11}"


def print_ranking(ranking: Ranking, *, as_json: bool) -> None:
    """Print the candidates, the best first."""
    if not as_json:
        click.secho(f"{_CANDIDATE_COLUMNS}  candidate", bold=True)
    for candidate in ranking.candidates:
        score = candidate.score
        if as_json:
            fields = {"candidate": candidate.text, "index": candidate.index, "probability": candidate.probability}
            print_json(fields | score_fields(score))
            continue
        mean = "-" if score.bits_per_character is None else f"{score.bits_per_character:.3f}"
        bits = f"{-score.sum_log_probability / math.log(2) + 0.0:,.3f}"
        click.echo(f"{candidate.probability:>12.4%}{bits:>10}{mean:>11}  {printable(candidate.text)}")
