"""Rows on standard output, as they come."""

import json
import math
from typing import Final, Protocol

import click
from rich.console import Console
from rich.text import Text

from segue_client.commands.render import (
    console,
    printable,
    score_cells,
    score_headings,
    surprisal_legend,
    surprisal_text,
)
from segue_client.commands.score.rows import Row, row_fields, score_fields
from segue_client.messages.candidates import Ranking
from segue_client.messages.score import Score


class RowPrinter(Protocol):
    """What tells a user of rows."""

    def row(self, row: Row) -> None:
        """Tell of one."""

    def end(self) -> None:
        """There are no more."""


class JsonPrinter:
    """An object a line."""

    def row(self, row: Row) -> None:
        """Print it."""
        print_json(row_fields(row))

    def end(self) -> None:
        """Print nothing."""


class TablePrinter:
    """Columns of numbers, then where a row stands, and its text; at the end everything together."""

    def __init__(self, *, with_total: bool = True) -> None:
        self._with_total = with_total
        self._count = 0
        self._total = Score()

    def row(self, row: Row) -> None:
        """Print it."""
        if not self._count:
            click.secho(f"{score_headings()}  text", bold=True)
        self._count += 1
        self._total += Score(
            sum_log_probability=row.score.sum_log_probability,
            scored_count=row.score.scored_count,
            unknown_count=row.score.unknown_count,
        )
        self._print(f"{score_cells(row.score)}  {row.name}", row)

    def end(self) -> None:
        """Print the sums of several rows."""
        if self._with_total and self._count > 1:
            click.secho(f"{score_cells(self._total)}  together", bold=True)

    def _print(self, cells: str, row: Row) -> None:
        text = f"  {_on_one_line(row.excerpt)}" if row.excerpt else ""
        click.echo(printable(cells) + text)


class ColouredTablePrinter(TablePrinter):
    """The same, with the texts coloured by surprisal."""

    def __init__(self, *, with_total: bool = True) -> None:
        super().__init__(with_total=with_total)
        self._console = console(forced=True)

    def end(self) -> None:
        """Print the sums of several rows, and what the colours mean."""
        super().end()
        self._console.print(surprisal_legend())

    def _print(self, cells: str, row: Row) -> None:
        line = Text(f"{printable(cells)}  ")
        text = surprisal_text(row.score.text.replace("\n", "\u240a"), row.score.log_probabilities)
        line.append_text(text)
        self._console.print(line)


class TerminalPainter:
    """Colours whole texts by surprisal as they come, one below the other."""

    def __init__(self) -> None:
        self._console: Console = console(forced=True)
        self._last = "\n"

    def begin(self, name: str) -> None:
        """Begin on a line of its own."""
        del name
        self._end_line()

    def add(self, part: Score) -> None:
        """Print more."""
        self._console.print(surprisal_text(part.text, part.log_probabilities), end="")
        self._last = part.text[-1:] or self._last

    def end(self) -> None:
        """Say what the colours mean."""
        self._end_line()
        self._console.print(surprisal_legend())

    def _end_line(self) -> None:
        """End the line, where the text has not."""
        if self._last != "\n":
            click.echo()
        self._last = "\n"


def _on_one_line(text: str) -> str:
    return printable(text.removesuffix("\n")).replace("\n", "\u240a")


def print_json(fields: dict[str, object]) -> None:
    """Print one object on a line; a lone surrogate, which UTF-8 has no bytes for, as an escape."""
    line = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(fields, allow_nan=False)
    click.echo(line)


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
