"""The passages that the demo scores: natural text, and the same characters shuffled."""

import glob
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

LENGTH: Final = 400
SEED: Final = 0

_TAIL_BYTES: Final = 16_384
"""More than LENGTH characters take in UTF-8."""

_COMPRESSED: Final = {".gz", ".zst", ".xz", ".bz2"}

ENGLISH: Final = (
    "It was late in the evening when we came back to the house, and the lamp was still burning in the "
    "window. Nobody spoke for a while. Then the old man put down his glass, looked around the table, and "
    "said that he would tell us the whole story from the beginning, if only we had the patience to hear it "
    "to the end. We said that we had nothing better to do, and drew our chairs nearer to the fire."
)

BUILT_IN: Final = "pydoc"
"""The demo's own corpus: the English reference inside every CPython."""


def natural_passage(corpus: str) -> str:
    """Return some 400 characters in the language of `corpus`, which is what `segue train` takes.

    Files, and the demo's own corpus, give their last characters, which training holds out. Everything else, such as a
    pipe or compressed files, gives an English passage.
    """
    if corpus == BUILT_IN:
        from pydoc_data.topics import topics

        return _whole_words(topics[max(topics)].strip())
    files = _files(corpus)
    return _whole_words(_tail(max(files)).strip()) if files else ENGLISH


def prompt_for(corpus: str, passage: str) -> str:
    """Return a beginning like that of `passage`: up to 12 characters of one line, in whole words if possible."""
    if corpus == BUILT_IN or passage == ENGLISH:
        return "The "
    start = passage.lstrip("\n")[:12]
    return (start.rpartition(" ")[0] or start).partition("\n")[0]


def shuffled(text: str) -> str:
    """Return the characters of `text` in random order, the same one every time."""
    characters = list(text)
    random.Random(SEED).shuffle(characters)  # noqa: S311 - no secret
    return "".join(characters)


def _files(corpus: str) -> list[Path]:
    path = Path(corpus)
    matching = map(Path, glob.iglob(corpus, recursive=True))  # noqa: PTH207 - as in training
    found: Iterable[Path] = _below(path) if path.is_dir() else [path] if path.exists() else matching
    return [each for each in found if each.is_file() and each.suffix.lower() not in _COMPRESSED]


def _below(folder: Path) -> Iterator[Path]:
    """Yield the *.txt files below `folder` that are not hidden, as training reads them."""
    for path in folder.rglob("*.txt"):
        if not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts):
            yield path


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read().decode(errors="ignore")  # the cut may split the first character
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _whole_words(text: str) -> str:
    """Return the end of `text`, from the start of a word."""
    if len(text) <= LENGTH:
        return text
    start, _, rest = text[-LENGTH:].partition(" ")
    return rest.lstrip() or start
