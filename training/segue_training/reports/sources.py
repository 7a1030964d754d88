"""What a text was read from: lines for the terminal, JSON for a script, and a file in the run's folder."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from segue_training.atomic import write_atomically
from segue_training.data.sources import ReadText, Skipped, Sources
from segue_training.errors import TrainingError

DOCUMENT: Final = "corpus.json"
"""The file in the run's folder."""

LISTED: Final = 10
"""Texts that are listed one by one."""

EXTREMES: Final = 3
"""Of more texts, the largest and the smallest that are listed."""

COPIES: Final = 3
"""Copies that are named."""

REASONS: Final = 6
"""Reasons for leaving files out that are named."""


def describe(sources: Sources, where: Path | None = None) -> Iterator[str]:
    """Yield lines that say which files were read and which were not; `where`: the file that will list them all."""
    match sources.texts:
        case [text]:
            yield f"text: {text.name}, {text.characters:,} characters"
        case texts:
            yield from _table(texts, sources.characters, where)
    if sources.skipped:
        yield f"not read: {_reasons(sources.skipped)}"
    if sources.bad_rows:
        yield f"left out: {sources.bad_rows:,} lines that cannot be read; the first: {sources.first_bad_row}"
    yield from _warnings(sources.copies)


def sources_as_json(sources: Sources) -> dict[str, Any]:
    """Return every text, and what was left out."""
    return asdict(sources)


def save_sources(folder: Path, sources: Sources) -> None:
    """Write DOCUMENT to `folder`. Raises TrainingError."""
    path = folder / DOCUMENT
    try:
        write_atomically(path, json.dumps(sources_as_json(sources), ensure_ascii=False, indent=2).encode() + b"\n")
    except OSError as error:
        raise TrainingError(f"cannot write {path}: {error.strerror}") from error


def _table(texts: tuple[ReadText, ...], characters: int, where: Path | None) -> Iterator[str]:
    total = f"texts: {len(texts):,} files, {characters:,} characters"
    if len(texts) <= LISTED:
        yield total
        yield from map(_row, texts)
        return
    by_size = sorted(texts, key=lambda text: -text.characters)
    yield f"{total}, all listed in {where}" if where else total
    yield from map(_row, by_size[:EXTREMES])
    yield f"{'...':>14}"
    yield from map(_row, by_size[-EXTREMES:])


def _row(text: ReadText) -> str:
    return f"{text.characters:>14,}  {text.name}"


def _reasons(skipped: tuple[Skipped, ...]) -> str:
    named = [f"{reason.count:,} {reason.reason} ({_examples(reason)})" for reason in skipped[:REASONS]]
    rest = sum(reason.count for reason in skipped[REASONS:])
    return "; ".join([*named, *([f"{rest:,} others"] if rest else [])])


def _examples(skipped: Skipped) -> str:
    more = ", ..." if skipped.count > len(skipped.examples) else ""
    return ", ".join(skipped.examples) + more


def _warnings(copies: list[tuple[ReadText, ReadText]]) -> Iterator[str]:
    for before, copy in copies[:COPIES]:
        yield f"warning: {copy.name} holds the same text as {before.name}"
    if len(copies) > COPIES:
        yield f"warning: {len(copies) - COPIES:,} more files hold the same text as another"
    if copies:
        yield "warning: every copy is read, so held-out text may be in the training part too: leave the copies out"
