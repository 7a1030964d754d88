"""What `segue generate` brings: texts for a person to read, or fields for a script."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import click

from segue_client._sync.generation import Generation, Samples
from segue_client.commands.render import alternatives_table, console, printable
from segue_client.messages.events import Alternative, Chunk, Finished

SEEDS: Final = 2**64
"""Behind the last seed comes the first."""


@dataclass(frozen=True)
class GeneratedText:
    """One text that has ended."""

    seed: int
    chunks: Sequence[Chunk]
    finished: Finished

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def log_probabilities(self) -> list[float]:
        """That of each character, where requested."""
        return list(chain.from_iterable(chunk.log_probabilities for chunk in self.chunks))

    @property
    def alternatives(self) -> list[tuple[Alternative, ...]]:
        """Those of each character, where requested."""
        return list(chain.from_iterable(chunk.alternatives for chunk in self.chunks))


def read(generation: Generation, note: Callable[[Chunk], None]) -> GeneratedText:
    """Read the one text to its end; `note` gets each chunk as it comes."""
    chunks: list[Chunk] = []
    for chunk in generation:
        note(chunk)
        chunks.append(chunk)
    assert generation.finished
    return GeneratedText(generation.started.seed, chunks, generation.finished)


def read_samples(samples: Samples) -> Iterator[GeneratedText]:
    """Yield several texts in their order, each as soon as it is known that it and those before it have ended."""
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
    """Print the prompt, and the text as it comes; without a line feed of their own in a pipe.

    `note` gets each chunk first.
    """
    on_terminal = sys.stdout.isatty()
    click.secho(_printed(prompt), dim=True, nl=False)
    chunks: list[Chunk] = []
    for chunk in generation:
        note(chunk)
        chunks.append(chunk)
        click.echo(_printed(chunk.text), nl=False)
    assert generation.finished
    written = GeneratedText(generation.started.seed, chunks, generation.finished)
    if on_terminal or written.alternatives:
        _end_line(written.text)
    _show_alternatives(written)
    return written


def show_samples(prompt: str, samples: Samples) -> list[GeneratedText]:
    """Print each text whole, below a heading and behind the prompt."""
    texts: list[GeneratedText] = []
    for written in read_samples(samples):
        texts.append(written)
        title = f"sample {len(texts)} of {len(samples.finished)}, seed {written.seed}, {written.finished.reason}"
        click.secho(f"--- {title} ---", bold=True)
        click.secho(_printed(prompt), dim=True, nl=False)
        click.echo(_printed(written.text), nl=False)
        _end_line(prompt + written.text)
        _show_alternatives(written)
    return texts


def _printed(text: str) -> str:
    return printable(text) if sys.stdout.isatty() else text


def _end_line(text: str) -> None:
    if not text.endswith("\n"):
        click.echo()


def _show_alternatives(written: GeneratedText) -> None:
    if written.alternatives:
        table = alternatives_table(written.text, written.log_probabilities, written.alternatives)
        console().print(table)


def summary(answer: Generation | Samples, texts: Sequence[GeneratedText], seconds: float) -> str:
    """Say in one line what came, and how fast."""
    started, resumed_count = answer.started, answer.resumed_count
    count = sum(written.finished.generated_count for written in texts)
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
    """Return everything as one JSON object: that of the one text, or with a list of several."""
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
    return fields | {"samples": [{"seed": written.seed} | _text_fields(written) for written in texts]}


def _text_fields(written: GeneratedText) -> dict[str, object]:
    fields: dict[str, object] = {
        "text": written.text,
        "reason": written.finished.reason,
        "stop": written.finished.stop,
        "generated_count": written.finished.generated_count,
        "position": written.finished.position,
    }
    if written.log_probabilities:
        fields["log_probabilities"] = written.log_probabilities
    if written.alternatives:
        fields["alternatives"] = [[each._asdict() for each in place] for place in written.alternatives]
    return fields
