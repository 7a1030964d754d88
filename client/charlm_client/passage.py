"""A natural passage of a corpus, and the same characters in disorder, for a model to tell apart."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

LENGTH: Final = 400
SEED: Final = 0

ENGLISH: Final = (
    "It was late in the evening when we came back to the house, and the lamp was still burning in the "
    "window. Nobody spoke for a while. Then the old man put down his glass, looked around the table, and "
    "said that he would tell us the whole story from the beginning, if only we had the patience to hear it "
    "to the end. We said that we had nothing better to do, and drew our chairs nearer to the fire."
)


def natural_passage(corpus: str) -> str:
    """Return some 400 characters in the language of `corpus`: its last ones, which training holds back.

    `corpus` is what `charlm train` takes. Standard input and downloaded corpora give an English passage.
    """
    source = _SOURCES.get(corpus, lambda: _end_of(Path(corpus)))
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


def _end_of(path: Path) -> str:
    """Return the text of a file, or of the last *.txt file in a folder."""
    file = max(path.rglob("*.txt")) if path.is_dir() else path
    return file.read_text(encoding="utf-8-sig")


_SOURCES: Final[dict[str, Callable[[], str]]] = {
    "pydoc": _pydoc,
    "time-machine": _english,
    "shakespeare": _english,
    "-": _english,
}
