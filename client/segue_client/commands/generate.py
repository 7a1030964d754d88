"""The client's subcommands `segue generate` and `segue models`."""

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Unpack

import click

from segue_client.commands.options import (
    JSON,
    MODEL,
    MODEL_VERSION,
    SERVER,
    TENANT,
    TICKET_IN,
    TIMEOUT,
    UNKNOWN,
    VERBATIM,
    check_new_file,
)

if TYPE_CHECKING:
    from segue_client._sync.client import Client
    from segue_client._sync.generation import Generation, Samples
    from segue_client.commands.generation_output import GeneratedText
    from segue_client.messages.events import Chunk
    from segue_client.messages.generation_request import GenerationKeywords
    from segue_client.messages.model import Model


def _biases(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Parse each CHAR=VALUE; CHAR may be "=" itself."""
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


def _text(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    return _unescaped(value)


def _allowed(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str:
    if value == "":  # as from an unset variable
        raise click.BadParameter("it is empty; name the characters that may be written, or leave it out to allow all")
    return _unescaped(value or "")


def _texts(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[str]:
    return list(map(_unescaped, values))


@click.command()
@click.argument("prompt", default="")
@SERVER
@TENANT
@MODEL
@MODEL_VERSION
@click.option(
    "--temperature",
    type=float,
    help="0 is always the likeliest; 0.7 reads well.  [default: that of the ticket or session, or 1]",
)
@click.option("--top-k", type=click.IntRange(min=0), help="Keep the k likeliest; 0: all.  [default: as before, or all]")
@click.option("--top-p", type=float, help="Keep the likeliest up to this probability.  [default: as before, or 1]")
@click.option(
    "--min-p", type=float, help="Keep those this many times as probable as the likeliest.  [default: as before, or 0]"
)
@click.option(
    "--bias",
    "biases",
    multiple=True,
    metavar="CHAR=VALUE",
    callback=_biases,
    help="Add VALUE to the logit of CHAR. Repeatable.",
)
@click.option(
    "--allow",
    "allowed_characters",
    metavar="TEXT",
    callback=_allowed,
    help="Write only characters of TEXT.  [default: all]",
)
@click.option(
    "--forbid", "forbidden_characters", default="", metavar="TEXT", callback=_text, help="Write no character of TEXT."
)
@click.option("--seed", type=click.IntRange(min=0), help="Repeats a text.  [default: as before, or a new one]")
@click.option("--max-characters", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--stop", multiple=True, callback=_texts, help="End after this string. Repeatable.")
@click.option("--samples", type=click.IntRange(min=1), default=1, help="Write this many texts, with consecutive seeds.")
@click.option(
    "--alternatives", type=click.IntRange(min=0), default=0, help="Show this many of the likeliest for each character."
)
@UNKNOWN
@VERBATIM
@TICKET_IN
@click.option("--session", metavar="NAME", help="Continue this session, and advance it. See `segue sessions`.")
@click.option(
    "--inexact",
    "exact",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Continue a state of another class of host too, rounding differently.",
)
@click.option(
    "--ticket-out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the state after the last character in this file, even if the text is interrupted.",
)
@click.option(
    "--ticket-interval",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep it there about every N characters, too.",
)
@click.option("--no-resume", is_flag=True, help="End when the server is lost, instead of resuming on another one.")
@TIMEOUT
@JSON
def generate(  # noqa: PLR0913 - the options of the command
    prompt: str,
    *,
    server: list[str],
    tenant: str,
    model_version: int,
    samples: int,
    alternatives: int,
    ticket_in: Path | None,
    ticket_out: Path | None,
    no_resume: bool,
    timeout: float | None,
    as_json: bool,
    **options: "Unpack[GenerationKeywords]",
) -> None:
    r"""Continue PROMPT; "-" reads it from standard input.

    Prompt and text go to standard output as they arrive, in a pipe without a final line feed; several samples each
    whole, below a heading. A summary goes to standard error. --bias, --allow, --forbid and --stop understand \n, \r,
    \t and \\ as in C.
    """
    from segue_client._sync.client import Client
    from segue_client.commands import generation_output as written
    from segue_client.commands.generation_output import decoded

    _check_tickets(ticket_out, options["ticket_interval"], samples)
    prompt = decoded("standard input", sys.stdin.buffer.read()) if prompt == "-" else prompt
    options |= {
        "version": model_version,
        "ticket": ticket_in.read_bytes() if ticket_in else None,
        "log_probabilities": alternatives > 0,
        "top_alternatives": alternatives,
        "return_ticket": ticket_out is not None,
    }
    began = time.monotonic()
    with Client(server, tenant=tenant, timeout=timeout, resume=not no_resume) as client:
        if samples == 1:
            answer: Generation | Samples
            answer, text = _one_text(client, prompt, options, ticket_out, as_json=as_json)
            texts = [text]
        else:
            with client.generate_samples(prompt, samples, **options) as several:
                answer = several
                texts = list(written.read_samples(several)) if as_json else written.show_samples(prompt, several)
    seconds = time.monotonic() - began
    if as_json:
        _print_json(written.generation_fields(prompt, answer, texts, seconds))
    else:
        click.secho(written.summary(answer, texts, seconds), dim=True, err=True)
    _keep_ticket(texts, ticket_out)


def _check_tickets(path: Path | None, interval: int | None, samples: int) -> None:
    if path and samples > 1:
        raise click.UsageError("--ticket-out keeps one state; leave --samples out, and give the --seed of the sample.")
    check_new_file("--ticket-out", path)
    if interval and not path:
        raise click.UsageError("--ticket-interval needs --ticket-out, the file that keeps the state.")


def _one_text(
    client: "Client", prompt: str, options: "GenerationKeywords", ticket_out: Path | None, *, as_json: bool
) -> tuple["Generation", "GeneratedText"]:
    """Read one text to its end; if it is interrupted, keep the latest state."""
    from segue_client.commands import generation_output as written
    from segue_client.commands.atomic_file import write_ticket
    from segue_client.commands.generation_output import keep_interrupted
    from segue_client.errors import SegueError

    chunks: list[Chunk] = []

    def note(chunk: "Chunk") -> None:
        chunks.append(chunk)
        if ticket_out and chunk.ticket:
            write_ticket(ticket_out, chunk.ticket)

    with client.generate(prompt, **options) as generation:
        try:
            text = written.read(generation, note) if as_json else written.show(prompt, generation, note)
        except (KeyboardInterrupt, SegueError, BrokenPipeError):
            if ticket_out:
                click.echo(f"\n{keep_interrupted(generation, chunks, ticket_out)}", err=True)
            raise
    return generation, text


def _keep_ticket(texts: Sequence["GeneratedText"], path: Path | None) -> None:
    """Write the ticket if requested; raise ServerUnavailable if the server stopped before the end of a text."""
    from segue_client.commands.atomic_file import write_ticket
    from segue_client.errors import ServerUnavailable
    from segue_client.messages.events import FinishReason

    finished = texts[0].finished
    if path and finished.ticket:
        write_ticket(path, finished.ticket)
    drained = [text.finished for text in texts if text.finished.reason is FinishReason.DRAINED]
    if drained and len(texts) > 1:
        remedy = f"repeat all of them with --seed {texts[0].seed}"
        raise ServerUnavailable(f"the server stopped before the end of {len(drained)} of {len(texts)} texts; {remedy}")
    if drained:
        remedy = f"continue with --ticket-in {path}" if path else "with --ticket-out the text can be continued"
        raise ServerUnavailable(f"the server stopped after {finished.generated_count:,} characters; {remedy}")


@click.command()
@SERVER
@TIMEOUT
@JSON
def models(*, server: list[str], timeout: float | None, as_json: bool) -> None:
    """List the models of a server."""
    from segue_client._sync.client import Client

    with Client(server, timeout=timeout) as client:
        loaded = client.models()
    if as_json:
        _print_json(*map(_model_fields, loaded))
    else:
        _print_models(loaded)


def _print_models(loaded: Sequence["Model"]) -> None:
    from segue_client.commands.render import model_table, print_table

    print_table(model_table(loaded))


def _model_fields(model: "Model") -> dict[str, object]:
    from dataclasses import asdict

    return asdict(model) | {"validation_perplexity": model.validation_perplexity}


def _print_json(*objects: dict[str, object]) -> None:
    for each in objects:
        click.echo(json.dumps(each, ensure_ascii=False))


_ESCAPES: Final = {r"\n": "\n", r"\r": "\r", r"\t": "\t", "\\\\": "\\"}


def _unescaped(text: str) -> str:
    """Replace the escapes in an option; a backslash before anything else remains."""
    return re.sub(r"\\[nrt\\]", lambda escape: _ESCAPES[escape[0]], text)
