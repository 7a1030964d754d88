"""The output of `segue generate`: texts for a reader, or fields for a script."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import click

from segue_client._sync.generation import Generation, Samples
from segue_client.commands.atomic_file import write_ticket
from segue_client.commands.render import alternatives_table, print_table, printable
from segue_client.errors import InvalidRequest, SegueError
from segue_client.messages.events import Alternative, Chunk, Finished

SEEDS: Final = 2**64
"""Seeds wrap around here."""

_TICKET_SECONDS: Final = 5.0
"""How long a user who pressed Ctrl-C waits for the server's last ticket."""


@dataclass(frozen=True)
class GeneratedText:
    """A finished text."""

    seed: int
    chunks: Sequence[Chunk]
    finished: Finished

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def log_probabilities(self) -> list[float]:
        """One per character, in nats; empty unless requested."""
        return list(chain.from_iterable(chunk.log_probabilities for chunk in self.chunks))

    @property
    def alternatives(self) -> list[tuple[Alternative, ...]]:
        """One tuple per character; empty unless requested."""
        return list(chain.from_iterable(chunk.alternatives for chunk in self.chunks))


def decoded(name: str, data: bytes) -> str:
    """Decode UTF-8; raise InvalidRequest, naming the text, if it is not."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start:,}"
        raise InvalidRequest(message) from error


def read(generation: Generation, note: Callable[[Chunk], None]) -> GeneratedText:
    """Read one text to its end; call `note` with each chunk as it arrives."""
    chunks: list[Chunk] = []
    for chunk in generation:
        note(chunk)
        chunks.append(chunk)
    assert generation.finished
    return GeneratedText(generation.started.seed, chunks, generation.finished)


def read_samples(samples: Samples) -> Iterator[GeneratedText]:
    """Yield several texts in order, each once it and all before it are known to be finished."""
    chunks: list[list[Chunk]] = [[] for _ in samples.finished]
    first, ended = samples.started.seed, 0
    for sample, chunk in samples:
        while finished := samples.finished[ended]:
            yield GeneratedText((first + ended) % SEEDS, chunks[ended], finished)
            ended += 1
        chunks[sample].append(chunk)
    for i, finished in enumerate(samples.finished[ended:], start=ended):
        assert finished
        yield GeneratedText((first + i) % SEEDS, chunks[i], finished)


def show(prompt: str, generation: Generation, note: Callable[[Chunk], None]) -> GeneratedText:
    """Print the prompt, then the text as it arrives; add no final line feed in a pipe.

    Calls `note` with each chunk before printing it.
    """
    last = prompt

    def note_and_print(chunk: Chunk) -> None:
        nonlocal last
        note(chunk)
        click.echo(_printed(chunk.text), nl=False)
        last = chunk.text or last

    click.secho(_printed(prompt), dim=True, nl=False)
    try:
        text = read(generation, note_and_print)
    finally:
        if sys.stdout.isatty():  # also if the text is broken off: the next prompt, or the error, begins a line
            _end_line(last)
    if text.alternatives and not sys.stdout.isatty():
        _end_line(text.text)
    _show_alternatives(text)
    return text


def show_samples(prompt: str, samples: Samples) -> list[GeneratedText]:
    """Print each text whole, after a heading and the prompt."""
    texts: list[GeneratedText] = []
    for text in read_samples(samples):
        texts.append(text)
        title = f"sample {len(texts)} of {len(samples.finished)}, seed {text.seed}, {text.finished.reason}"
        click.secho(f"--- {title} ---", bold=True)
        click.secho(_printed(prompt), dim=True, nl=False)
        click.echo(_printed(text.text), nl=False)
        _end_line(prompt + text.text)
        _show_alternatives(text)
    return texts


def _printed(text: str) -> str:
    return printable(text) if sys.stdout.isatty() else text


def _end_line(text: str) -> None:
    if not text.endswith("\n"):
        click.echo()


def _show_alternatives(text: GeneratedText) -> None:
    if text.alternatives:
        print_table(alternatives_table(text.text, text.log_probabilities, text.alternatives))


def keep_interrupted(generation: Generation, chunks: Sequence[Chunk], path: Path) -> str:
    """Write a ticket for the state after the received `chunks`, or the nearest earlier one; return what was kept."""
    text = "".join(chunk.text for chunk in chunks)
    try:
        ticket = generation.rewind(0, timeout=_TICKET_SECONDS)
    except SegueError:
        return _keep_latest(generation.latest_ticket, text, path)
    write_ticket(path, ticket)
    return f"after {len(text):,} characters; continue with --ticket-in {path}"


def _keep_latest(latest: tuple[int, bytes] | None, text: str, path: Path) -> str:
    """Write the last ticket that the stream delivered; some characters may be newer."""
    if latest is None:
        return f"after {len(text):,} characters; no ticket has arrived for --ticket-out"
    count, ticket = latest
    write_ticket(path, ticket)
    return (
        f"after {len(text):,} characters; {path} keeps the state after {count:,} of them, "
        f"before the last {len(text) - count:,}: {text[count:]!r}"
    )


def summary(answer: Generation | Samples, texts: Sequence[GeneratedText], seconds: float) -> str:
    """Return one line: model, length, speed, how it ended."""
    started, resumed_count = answer.started, answer.resumed_count
    count = sum(text.finished.generated_count for text in texts)
    samples = f"{len(texts)} samples, " if len(texts) > 1 else ""
    reason = texts[0].finished.reason
    end = f"seeds {texts[0].seed} to {texts[-1].seed}" if len(texts) > 1 else f"{reason}, seed {started.seed}"
    unknown = f", {started.unknown_count:,} unknown in the prompt" if started.unknown_count else ""
    resumed = f", resumed {resumed_count} times" if resumed_count > 1 else ", resumed once" if resumed_count else ""
    inexact = "" if answer.exact else ", not exact"
    rate = f"{count:,} characters, {count / seconds:,.0f}/s"
    return f"{started.model}/{started.version}: {samples}{rate}, {end}{unknown}{resumed}{inexact}"


def generation_fields(
    prompt: str, answer: Generation | Samples, texts: Sequence[GeneratedText], seconds: float
) -> dict[str, object]:
    """Return all results as one JSON object; several texts become its list `samples`."""
    started = answer.started
    fields: dict[str, object] = {
        "prompt": prompt,
        "model": started.model,
        "version": started.version,
        "seed": started.seed,
        "unknown_count": started.unknown_count,
        "exact": answer.exact,
        "cached_count": started.cached_count,
        "resumed_count": answer.resumed_count,
        "seconds": seconds,
    }
    if len(texts) == 1:
        return fields | _text_fields(texts[0])
    return fields | {"samples": [{"seed": text.seed} | _text_fields(text) for text in texts]}


def _text_fields(text: GeneratedText) -> dict[str, object]:
    fields: dict[str, object] = {
        "text": text.text,
        "reason": text.finished.reason,
        "stop": text.finished.stop,
        "generated_count": text.finished.generated_count,
        "position": text.finished.position,
    }
    if text.log_probabilities:
        fields["log_probabilities"] = text.log_probabilities
    if text.alternatives:
        fields["alternatives"] = [[each._asdict() for each in place] for place in text.alternatives]
    return fields
