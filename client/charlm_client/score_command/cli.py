"""`charlm score`."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from charlm_client.options import JSON, MODEL, MODEL_VERSION, SERVER, TICKET_IN, TIMEOUT, UNKNOWN
from charlm_client.utf8 import decoded

if TYPE_CHECKING:
    from rich.text import Text

    from charlm_client.scoring import Score

HEATMAP_CHARACTERS: Final = 2000
"""Up to how many characters are coloured without being asked for: about one screen."""

LABEL_CHARACTERS: Final = 40
"""How much of a --text stands for it in the table."""


def _print_json(*objects: dict[str, object]) -> None:
    for each in objects:
        click.echo(json.dumps(each, ensure_ascii=False))


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--text", "texts", multiple=True, help="Score this text. Repeatable.")
@SERVER
@MODEL
@MODEL_VERSION
@UNKNOWN
@TICKET_IN
@TIMEOUT
@JSON
@click.option("--per-character", is_flag=True, help="With --json: the log-probability of each character too.")
@click.option(
    "--heatmap/--no-heatmap",
    default=None,
    help=f"Colour each character by its surprisal.  [default: up to {HEATMAP_CHARACTERS:,}, on a terminal]",
)
def score(  # noqa: PLR0913 - the options of the command
    files: tuple[str, ...],
    *,
    texts: tuple[str, ...],
    server: str,
    model: str,
    model_version: int,
    unknown: Literal["replace", "refuse"],
    ticket_in: Path | None,
    timeout: float | None,
    as_json: bool,
    per_character: bool,
    heatmap: bool | None,
) -> None:
    """Measure how probable the model finds each of FILES (UTF-8; "-" is standard input).

    A model of documents scores each line of a file, with its end, as a text of its own; empty lines are left out.
    """
    from charlm_client.client import Client

    if not files and not texts:
        raise click.UsageError("Name a file, - for standard input, or give a --text.")
    if per_character and not as_json:
        raise click.UsageError("--per-character goes with --json; --heatmap shows it in colours.")
    contents = list(_read(files))
    with Client(server, timeout=timeout) as client:
        by_line = bool(contents) and client.model(model, model_version).documents == "lines"
        named = [*(_lines(contents) if by_line else contents), *_named(texts)]
        coloured = not as_json and _is_coloured(heatmap, sum(len(text) for _, text in named))
        scores = client.score_many(
            [text for _, text in named],
            model=model,
            version=model_version,
            ticket=ticket_in.read_bytes() if ticket_in else None,
            log_probabilities=coloured or per_character,
            unknown=unknown,
        )
    if as_json:
        _print_json(*(_score_fields(name, score) for (name, _), score in zip(named, scores, strict=True)))
    else:
        _print_scores(named, scores, forced=bool(heatmap), coloured=coloured)


def _read(files: Sequence[str]) -> Iterator[tuple[str, str]]:
    for file in files:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        name = "standard input" if file == "-" else file
        yield name, decoded(name, data)


def _lines(contents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield each line of the files that is not empty, with its line feed, as NAME:NUMBER."""
    for name, text in contents:
        for number, line in enumerate(_line_feeds(text).split("\n"), start=1):
            if line:
                yield f"{name}:{number}", f"{line}\n"


def _named(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        yield json.dumps(_shortened(text), ensure_ascii=False), text


def _shortened(text: str) -> str:
    return text if len(text) <= LABEL_CHARACTERS else f"{text[: LABEL_CHARACTERS - 1]}…"


def _is_coloured(heatmap: bool | None, characters: int) -> bool:
    return heatmap if heatmap is not None else characters <= HEATMAP_CHARACTERS and sys.stdout.isatty()


def _print_scores(named: Sequence[tuple[str, str]], scores: Sequence["Score"], *, coloured: bool, forced: bool) -> None:
    """Print the table, after the coloured texts; `forced` colours what is not a terminal too."""
    from charlm_client.render import console, score_table, surprisal_legend

    output = console(forced=forced)
    if coloured:
        for (_, text), score in zip(named, scores, strict=True):
            shown = _coloured(_line_feeds(text), score.log_probabilities)
            output.print(shown, end="" if shown.plain.endswith("\n") else "\n")
        output.print(surprisal_legend())
    output.print(score_table(zip([name for name, _ in named], scores, strict=True)))


def _coloured(text: str, log_probabilities: Sequence[float]) -> "Text":
    """Colour a text; dim throughout where the model reads other characters than those that stand there."""
    from rich.text import Text

    from charlm_client.render import UNSCORED_STYLE, printable, surprisal_text

    try:
        return surprisal_text(text, log_probabilities)
    except ValueError:
        return Text(printable(text), style=UNSCORED_STYLE)


def _line_feeds(text: str) -> str:
    """Write a text as the models' normalization does, so that each log-probability finds its character."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _score_fields(name: str, score: "Score") -> dict[str, object]:
    fields: dict[str, object] = {
        "name": name,
        "sum_log_probability": score.sum_log_probability,
        "scored_count": score.scored_count,
        "unknown_count": score.unknown_count,
        "perplexity": score.perplexity,
        "bits_per_character": score.bits_per_character,
    }
    return fields | {"log_probabilities": score.log_probabilities} if score.log_probabilities else fields
