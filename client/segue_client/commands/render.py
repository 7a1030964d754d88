"""Scores, models and texts laid out for a terminal."""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text
from rich.theme import Theme

from segue_client.messages.events import Alternative
from segue_client.messages.model import Model
from segue_client.messages.score import Score

SURPRISAL_STYLES: Final = (
    (1, "color(16) on color(231)"),
    (2, "color(16) on color(223)"),
    (4, "color(16) on color(215)"),
    (7, "color(16) on color(166)"),
)
"""Upper bounds in bits (probabilities of 1 in 2, 4, 16 and 128), with the style of characters below them.

The more surprising, the darker, on terminals of any background; so the text has a colour, too.
"""
HIGHEST_STYLE: Final = "bold color(231) on color(88)"
UNSCORED_STYLE: Final = "dim"

_FEW_COLOURS: Final = (
    "color(0) on color(15)",
    "underline color(0) on color(15)",
    "bold color(0) on color(11)",
    "bold underline color(0) on color(3)",
    "bold reverse color(1) on color(15)",
)
"""The five styles for a terminal of at most 16 colours, where some of the others are the same.

They differ without any colour, too.
"""

PIPE_WIDTH: Final = 10_000
"""Columns in a pipe: enough to keep every name on one line."""

TEXT_INDENT: Final = 4
"""Columns before a text that does not fit beside its numbers."""

_CONTROL_PICTURES: Final = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),  # from file names that are not UTF-8
}

_VISIBLE_PICTURES: Final = {ord(" "): "\u2423", ord("\n"): "\u240a", ord("\t"): "\u2409"}
"""For characters that are invisible on their own."""


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Let the command decide how to end when its output is no longer read."""
        raise BrokenPipeError


def console(*, forced: bool = False) -> Console:
    """Return standard output: in a pipe without line wrapping and, unless `forced`, without colour."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    made = _Console(highlight=False, soft_wrap=True, width=width, force_terminal=forced or None)
    if made.no_color or made.color_system == "standard":
        made.push_theme(Theme(dict(zip(_styles(), _FEW_COLOURS, strict=True))))
    return made


def _styles() -> list[str]:
    return [*(style for _, style in SURPRISAL_STYLES), HIGHEST_STYLE]


def printable(text: str) -> str:
    """Replace control characters, which could steer a terminal, by pictures; keep line feeds and tabs.

    Lone surrogates, which cannot be printed, are replaced too.
    """
    return text.translate(_CONTROL_PICTURES)


def surprisal_text(text: str, log_probabilities: Sequence[float]) -> Text:
    """Colour each character by its surprisal.

    `log_probabilities` (nats) has one value per character, or, for a text from the zero state, one fewer: then the
    first character is dim. Raises ValueError for any other number.
    """
    unscored = len(text) - len(log_probabilities)
    if unscored not in (0, 1):
        raise ValueError(f"{len(log_probabilities)} log-probabilities for {len(text)} characters")
    coloured = Text().append(printable(text[:unscored]), style=UNSCORED_STYLE)
    for character, log_probability in zip(text[unscored:], log_probabilities, strict=True):
        coloured.append(printable(character), style=_style(-log_probability))
    return coloured


def _style(surprisal: float) -> str:
    bits = surprisal / math.log(2)
    return next((style for bound, style in SURPRISAL_STYLES if bits < bound), HIGHEST_STYLE)


def print_row(cells: str, text: Text, to: Console) -> None:
    """Print `text` after its columns; if a terminal is too narrow for that, below them, so that they stay columns."""
    row = Text(f"{cells}  ").append_text(text)
    if row.cell_len <= to.width:
        to.print(row)
        return
    to.print(Text(cells))
    for line in text.wrap(to, max(to.width - TEXT_INDENT, 1), overflow="fold"):
        to.print(Text(" " * TEXT_INDENT).append_text(line))


def print_table(table: Table) -> None:
    """Print a table on standard output, whole: names and numbers are to be copied, so a narrow terminal wraps them."""
    to = console()
    needed = Measurement.get(to, to.options.update(width=PIPE_WIDTH), table).maximum
    to.width = max(needed, to.width)
    to.print(table)


def print_surprisal_legend(to: Console) -> None:
    """Print what each style means, where there are any: a dumb terminal has none."""
    if to.color_system is not None:
        to.print(surprisal_legend())


def surprisal_legend() -> Text:
    """Return what each style means."""
    legend = Text("surprisal in bits: ")
    for bound, style in SURPRISAL_STYLES:
        legend.append(f"<{bound}", style=style).append(" ")
    return legend.append("more", style=HIGHEST_STYLE)


def alternatives_table(
    text: str, log_probabilities: Sequence[float], alternatives: Sequence[Sequence[Alternative]]
) -> Table:
    """Lay out each character with its probability and the most probable ones in its place."""
    table = Table("character", Column("probability", justify="right"), "likeliest", box=None, pad_edge=False)
    for character, log_probability, likeliest in zip(text, log_probabilities, alternatives, strict=True):
        chosen = Text(visible(character), style=_style(-log_probability))
        table.add_row(chosen, f"{math.exp(log_probability):.1%}", _likeliest_cell(character, likeliest))
    return table


def _likeliest_cell(chosen: str, likeliest: Iterable[Alternative]) -> Text:
    return Text("  ").join(
        Text(
            f"{visible(character)} {math.exp(log_probability):.1%}",
            style="bold" if character == chosen else "",
        )
        for character, log_probability in likeliest
    )


def visible(character: str) -> str:
    """Return a character as it is shown on its own: a picture for a space and other invisible ones."""
    return printable(character).translate(_VISIBLE_PICTURES)


SCORE_COLUMNS: Final = (("bits/char", 10), ("perplexity", 12), ("log-probability", 17), ("scored", 12), ("unknown", 9))
"""The headings of a score, and their widths."""


def score_headings() -> str:
    """Return the headings of the columns of `score_cells`."""
    return "".join(f"{heading:>{width}}" for heading, width in SCORE_COLUMNS)


def score_cells(score: Score) -> str:
    """Return a score in columns of fixed width, so that rows can be printed one by one."""
    cells = (
        _decimal(score.bits_per_character),
        _decimal(score.perplexity),
        f"{score.sum_log_probability:,.3f}",
        f"{score.scored_count:,}",
        f"{score.unknown_count:,}",
    )
    return "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, SCORE_COLUMNS, strict=True))


def no_score_cells() -> str:
    """Return the columns of what has no score."""
    return "".join(f"{'-':>{width}}" for _, width in SCORE_COLUMNS)


def _decimal(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.3f}" if value < 1e6 else f"{value:.3g}"  # noqa: PLR2004 - the width of the column


def model_table(models: Iterable[Model]) -> Table:
    """Lay out the models of a server."""
    table = Table("model", "architecture", "corpus", box=None, pad_edge=False)
    for heading in ("alphabet", "perplexity", "ticket", "live"):
        table.add_column(heading, justify="right")
    table.add_column("provider")
    for model in models:
        table.add_row(
            Text(f"{model.name}/{model.version}"),
            f"{model.architecture} {model.layers} x {model.hidden}",
            Text(model.corpus),
            _alphabet(model),
            f"{model.validation_perplexity:,.3f}",
            f"{model.ticket_bytes:,} bytes",
            f"{model.live_sequences:,}",
            model.provider.removesuffix("ExecutionProvider"),
        )
    return table


def _alphabet(model: Model) -> str:
    alphabet = "bytes" if model.alphabet == "bytes" else f"{len(model.vocabulary):,} characters"
    return f"{alphabet}, lines" if model.documents == "lines" else alphabet
