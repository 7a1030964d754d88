"""Texts coloured by surprisal, as one self-contained HTML file."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Final, TextIO

from segue_client.commands.atomic_file import READABLE, atomic_file
from segue_client.commands.render import printable, visible
from segue_client.commands.score.rows import Row, totals
from segue_client.messages.events import Alternative
from segue_client.messages.score import Score

BOUNDS: Final = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0)
"""Upper bounds of the shades in bits; the last shade has none."""

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfb; --quiet: #6a6a66; --line: #d9d9d2;
        --heat: 217 60 30; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ecebe6; --paper: #17171a; --quiet: #9a9a94; --line: #37373c; --heat: 255 92 51; }
}
body { margin: 0 auto; padding: 2rem 1rem 8rem; max-width: 64rem; color: var(--ink); background: var(--paper);
       font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; }
h2 { margin: 2rem 0 .3rem; font-size: 1rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; color: var(--quiet); font-size: .9rem; }
pre { margin: 0; padding: .8rem; border: 1px solid var(--line); border-radius: .4rem;
      font: 1rem/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; }
i { font-style: normal; border-radius: .15rem; }
i:hover { outline: 2px solid var(--ink); }
i:hover::after { content: attr(data-t); position: fixed; left: 50%; bottom: 1rem; transform: translateX(-50%);
                 padding: .6rem 1rem; border-radius: .4rem; color: var(--paper); background: var(--ink);
                 font: 1rem/1.5 ui-monospace, monospace; white-space: pre; }
.e { color: var(--quiet); }
.legend i { color: var(--ink); }
"""

_HEAD: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="legend">How surprised the model was, in bits: {legend}. Point at a character to see what it expected.</p>
"""


class HtmlPage:
    """A painter that writes HTML."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._score: Score | None = None
        file.write(_HEAD.format(title="Surprisal", style=_STYLE + _shades(), legend=_legend()))

    def begin(self, name: str) -> None:
        """Begin the next text."""
        self._end_text()
        self._score = Score()
        self._file.write(f"<section>\n<h2>{escape(printable(name))}</h2>\n<pre>\n")

    def row(self, row: Row) -> None:
        """Write a whole row; of a bad one, what is wrong with it."""
        if row.error is None:
            self.begin(row.name)
            self.add(row.score)
        else:
            self._end_text()
            self._file.write(f"<section>\n<p>{escape(printable(row.error))}</p>\n</section>\n")

    def add(self, part: Score) -> None:
        """Write the next part of the text."""
        assert self._score is not None
        self._score += totals(part)
        unscored = len(part.text) - len(part.log_probabilities)
        self._file.write("".join(f'<i class="e">{_shown(character)}</i>' for character in part.text[:unscored]))
        for at, character in enumerate(part.text[unscored:]):
            rank = part.ranks[at] if part.ranks else None
            alternatives = part.alternatives[at] if part.alternatives else ()
            self._file.write(_character(character, -part.log_probabilities[at] / math.log(2), rank, alternatives))

    def end(self) -> None:
        """End the page."""
        self._end_text()
        self._file.write("</body>\n</html>\n")

    def _end_text(self) -> None:
        if self._score is not None:
            self._file.write(f"</pre>\n<p>{_summary(self._score)}</p>\n</section>\n")
            self._score = None


@contextmanager
def html_page(path: Path) -> Iterator[HtmlPage]:
    """Write a page to `path`, whole or not at all."""
    with atomic_file(path, READABLE) as file:
        text = io.TextIOWrapper(file, encoding="utf-8")
        page = HtmlPage(text)
        yield page
        page.end()
        text.detach()  # flushes it; `atomic_file` closes the file


def _character(character: str, bits: float, rank: int | None, alternatives: Sequence[Alternative]) -> str:
    tooltip = f"{visible(character)}  {bits:.2f} bits, 1 in {_one_in(bits)}"
    if rank is not None:
        tooltip += f", rank {rank:,}"
    if alternatives:
        expected = "   ".join(
            f"{visible(each.character)} {math.exp(each.log_probability):.1%}" for each in alternatives
        )
        tooltip += f"\n{expected}"
    tooltip = escape(tooltip).replace("\n", "&#10;")
    return f'<i class="s{_shade(bits)}" data-t="{tooltip}">{_shown(character)}</i>'


def _shown(character: str) -> str:
    """Return a character as HTML; a line feed is both shown and kept."""
    return "\u240a\n" if character == "\n" else escape(printable(character))


def _one_in(bits: float) -> str:
    return f"{2**bits:,.1f}" if bits < 10 else f"{2 ** min(bits, 1000):,.3g}"  # noqa: PLR2004 - enough digits


def _shade(bits: float) -> int:
    return next((shade for shade, bound in enumerate(BOUNDS) if bits < bound), len(BOUNDS))


def _shades() -> str:
    """Return the CSS of the shades: the more surprising, the more opaque."""
    most = len(BOUNDS)
    return "".join(
        f".s{shade} {{ background: rgb(var(--heat) / {0.62 * shade / most:.2f}); }}\n" for shade in range(most + 1)
    )


def _legend() -> str:
    shades = [f'<i class="s{shade}">&nbsp;&lt;{bound:g}&nbsp;</i>' for shade, bound in enumerate(BOUNDS)]
    return " ".join([*shades, f'<i class="s{len(BOUNDS)}">&nbsp;more&nbsp;</i>'])


def _summary(score: Score) -> str:
    if score.bits_per_character is None:
        return "Nothing was scored."
    unknown = f", {score.unknown_count:,} of them unknown" if score.unknown_count else ""
    return (
        f"{score.bits_per_character:.3f} bits a character, perplexity {score.perplexity:,.3f}, "
        f"{score.scored_count:,} characters{unknown}"
    )
