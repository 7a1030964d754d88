"""A natural passage of a corpus, and the same characters in disorder, for a model to tell apart."""

import glob
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

LENGTH: Final = 400
SEED: Final = 0

_TAIL_BYTES: Final = 16_384
"""As much of a file's end as surely holds a passage."""

ENGLISH: Final = (
    "It was late in the evening when we came back to the house, and the lamp was still burning in the "
    "window. Nobody spoke for a while. Then the old man put down his glass, looked around the table, and "
    "said that he would tell us the whole story from the beginning, if only we had the patience to hear it "
    "to the end. We said that we had nothing better to do, and drew our chairs nearer to the fire."
)


class NoPassage(Exception):  # noqa: N818 - named after what happened
    """There is no text that a passage could be taken from."""

    exit_code = 2


def natural_passage(corpus: str) -> str:
    """Return some 400 characters in the language of `corpus`: its last ones, which training holds back.

    `corpus` is what `segue train` takes. Standard input, pipes and downloaded corpora give an English passage. Raises
    NoPassage.
    """
    source = _SOURCES.get(corpus, lambda: _end_of(corpus))
    return _whole_words(source().strip())


def scrambled(text: str) -> str:
    """Return the characters of `text` in random order, the same one every time."""
    characters = list(text)
    random.Random(SEED).shuffle(characters)  # noqa: S311 - no secret
    return "".join(characters)


def prompt_for(corpus: str) -> str:
    """Return a beginning in the language of `corpus`: up to 12 characters, whole words where there are any."""
    if corpus in _SOURCES:
        return "The "
    start = natural_passage(corpus)[:12]
    return start.rpartition(" ")[0] or start


def _whole_words(text: str) -> str:
    """Return the end of `text`, from the beginning of a word."""
    if len(text) <= LENGTH:
        return text
    start, _, rest = text[-LENGTH:].partition(" ")
    return rest.lstrip() or start


def _pydoc() -> str:
    from pydoc_data.topics import topics

    return topics[max(topics)]


def _english() -> str:
    return ENGLISH


def _end_of(corpus: str) -> str:
    """Return the end of the last of the files that `corpus` names."""
    files = _files(corpus)
    if not files:
        raise NoPassage(f"no file is called or matches {corpus!r}, and no corpus is called so")
    last = max(files)
    return _tail(last) if last.is_file() else ENGLISH  # a pipe can be read once, by training


def _files(corpus: str) -> list[Path]:
    path = Path(corpus)
    if path.exists() and not path.is_dir():
        return [path]
    matching = map(Path, glob.iglob(corpus, recursive=True))  # noqa: PTH207 - as training expands it
    found: Iterable[Path] = path.rglob("*.txt") if path.is_dir() else matching
    return [each for each in found if each.is_file()]


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read().decode(errors="ignore")  # the first character may be cut
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


_SOURCES: Final[dict[str, Callable[[], str]]] = {
    "pydoc": _pydoc,
    "time-machine": _english,
    "shakespeare": _english,
    "-": _english,
}
