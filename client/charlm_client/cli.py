"""The client's subcommands: `charlm generate`, `charlm score`, `charlm models`."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import click

if TYPE_CHECKING:
    from rich.text import Text

    from charlm_client.model import Model
    from charlm_client.request import GenerationOptions
    from charlm_client.scoring import Score
    from charlm_client.written import Written

HEATMAP_CHARACTERS: Final = 2000
"""Up to how many characters are coloured without being asked for: about one screen."""

LABEL_CHARACTERS: Final = 40
"""How much of a --text stands for it in the table."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Decorator = Callable[[_Function], _Function]

_SERVER: Final = click.option(
    "--server",
    metavar="HOST:PORT",
    default="127.0.0.1:50051",
    show_default=True,
    envvar="CHARLM_SERVER",
    show_envvar=True,
    help="Where the server listens.",
)
_TIMEOUT: Final = click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after this time."
)
_JSON: Final = click.option(
    "--json", "as_json", is_flag=True, help="Write JSON, one object a line, for a script to read."
)
_MODEL: Final = click.option("--model", default="", help="The model.  [default: the server's only one]")
_MODEL_VERSION: Final = click.option(
    "--model-version", type=click.IntRange(min=0), default=0, help="Its version.  [default: the newest]"
)
_UNKNOWN: Final = click.option(
    "--unknown",
    type=click.Choice(["replace", "refuse"]),
    default="replace",
    show_default=True,
    help="What becomes of characters that the model does not know.",
)
_TICKET_IN: Final = click.option(
    "--ticket-in",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start from the ticket in this file.",
)


def _biases(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Read each CHAR=VALUE; the character may be "=" itself."""
    biases: dict[str, float] = {}
    for value in values:
        character, _, number = value.rpartition("=")
        character = _unescaped(character)
        if character in biases:
            raise click.BadParameter(f"{character!r} is given twice")
        try:
            biases[character] = float(number)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not a character, = and a number, such as e=-2.5") from None
    return biases


@click.command()
@click.argument("prompt", default="")
@_SERVER
@_MODEL
@_MODEL_VERSION
@click.option("--temperature", type=float, default=1.0, show_default=True, help="0 is always the likeliest.")
@click.option("--top-k", type=click.IntRange(min=0), default=0, help="Keep the k likeliest.  [default: all]")
@click.option("--top-p", type=float, default=1.0, help="Keep the likeliest up to this probability.")
@click.option("--min-p", type=float, default=0.0, help="Keep those this many times as probable as the likeliest.")
@click.option(
    "--bias",
    "biases",
    multiple=True,
    metavar="CHAR=VALUE",
    callback=_biases,
    help="Add VALUE to the logit of CHAR. Repeatable.",
)
@click.option("--allow", default="", metavar="TEXT", help="Write only characters of TEXT.  [default: all]")
@click.option("--forbid", default="", metavar="TEXT", help="Write no character of TEXT.")
@click.option("--seed", type=click.IntRange(min=0), help="Repeats a text.  [default: a new one]")
@click.option("--max-characters", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--stop", multiple=True, help="End after this string. Repeatable.")
@click.option("--samples", type=click.IntRange(min=1), default=1, help="Write this many texts, with consecutive seeds.")
@click.option(
    "--alternatives", type=click.IntRange(min=0), default=0, help="Show this many of the likeliest for each character."
)
@_UNKNOWN
@_TICKET_IN
@click.option(
    "--ticket-out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the state after the last character in this file.",
)
@_TIMEOUT
@_JSON
def generate(  # noqa: PLR0913 - the options of the command
    prompt: str,
    *,
    server: str,
    model: str,
    model_version: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    biases: dict[str, float],
    allow: str,
    forbid: str,
    seed: int | None,
    max_characters: int,
    stop: tuple[str, ...],
    samples: int,
    alternatives: int,
    unknown: Literal["replace", "refuse"],
    ticket_in: Path | None,
    ticket_out: Path | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    r"""Continue PROMPT; "-" reads it from standard input.

    Prompt and text go to standard output as they come, without a line feed of their own in a pipe; several samples
    each whole, below a heading. A summary goes to standard error. In the texts of --bias, --allow, --forbid and --stop
    \n, \r, \t and \\ stand for what they do in C.
    """
    from charlm_client import written
    from charlm_client.client import Client

    _check_ticket_out(ticket_out, samples)
    prompt = _decoded("standard input", sys.stdin.buffer.read()) if prompt == "-" else prompt
    options: GenerationOptions = {
        "model": model,
        "version": model_version,
        "ticket": ticket_in.read_bytes() if ticket_in else None,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "biases": biases,
        "allowed_characters": _unescaped(allow),
        "forbidden_characters": _unescaped(forbid),
        "seed": seed,
        "max_characters": max_characters,
        "stop": [_unescaped(each) for each in stop],
        "log_probabilities": alternatives > 0,
        "top_alternatives": alternatives,
        "unknown": unknown,
        "return_ticket": ticket_out is not None,
    }
    began = time.monotonic()
    with Client(server, timeout=timeout) as client:
        if samples == 1:
            with client.generate(prompt, **options) as generation:
                started = generation.started
                texts = [written.read(generation) if as_json else written.show(prompt, generation)]
        else:
            with client.generate_samples(prompt, samples, **options) as several:
                started = several.started
                texts = list(written.read_samples(several)) if as_json else written.show_samples(prompt, several)
    seconds = time.monotonic() - began
    if as_json:
        _print_json(written.generation_fields(prompt, started, texts, seconds))
    else:
        click.secho(written.summary(started, texts, seconds), dim=True, err=True)
    _keep_ticket(texts, ticket_out)


def _check_ticket_out(path: Path | None, samples: int) -> None:
    if path and samples > 1:
        raise click.UsageError("--ticket-out keeps one state; leave --samples out, and give the --seed of the sample.")
    if path and not path.parent.is_dir():
        raise click.UsageError(f"--ticket-out: there is no folder {path.parent}")


def _keep_ticket(texts: Sequence["Written"], path: Path | None) -> None:
    """Write the ticket where it was asked for; fail where the server stopped before the end of a text."""
    from charlm_client.errors import ServerUnavailable
    from charlm_client.events import FinishReason
    from charlm_client.ticket_file import write_ticket

    finished = texts[0].finished
    if path and finished.ticket:
        write_ticket(path, finished.ticket)
    drained = [text.finished for text in texts if text.finished.reason is FinishReason.DRAINED]
    if drained and len(texts) > 1:
        remedy = f"all can be written again with --seed {texts[0].seed}"
        raise ServerUnavailable(f"the server stopped before the end of {len(drained)} of {len(texts)} texts; {remedy}")
    if drained:
        remedy = f"continue with --ticket-in {path}" if path else "with --ticket-out the text can be continued"
        raise ServerUnavailable(f"the server stopped after {finished.generated_count:,} characters; {remedy}")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--text", "texts", multiple=True, help="Score this text. Repeatable.")
@_SERVER
@_MODEL
@_MODEL_VERSION
@_UNKNOWN
@_TICKET_IN
@_TIMEOUT
@_JSON
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
        yield name, _decoded(name, data)


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


@click.command()
@_SERVER
@_TIMEOUT
@_JSON
def models(*, server: str, timeout: float | None, as_json: bool) -> None:
    """List the models of a server."""
    from charlm_client.client import Client

    with Client(server, timeout=timeout) as client:
        loaded = client.models()
    if as_json:
        _print_json(*map(_model_fields, loaded))
    else:
        _print_models(loaded)


def _print_models(loaded: Sequence["Model"]) -> None:
    from charlm_client.render import console, model_table

    console().print(model_table(loaded))


def _model_fields(model: "Model") -> dict[str, object]:
    from dataclasses import asdict

    return asdict(model) | {"validation_perplexity": model.validation_perplexity}


def _print_json(*objects: dict[str, object]) -> None:
    for each in objects:
        click.echo(json.dumps(each, ensure_ascii=False))


def _decoded(name: str, data: bytes) -> str:
    from charlm_client.errors import InvalidRequest

    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start:,}"
        raise InvalidRequest(message) from error


_ESCAPES: Final = {r"\n": "\n", r"\r": "\r", r"\t": "\t", "\\\\": "\\"}


def _unescaped(text: str) -> str:
    """Read the escapes of an option; a backslash before anything else stands for itself."""
    return re.sub(r"\\[nrt\\]", lambda escape: _ESCAPES[escape[0]], text)
