"""How the two editions of Dive into Deep Learning read The Time Machine, character by character.

    d2l-zh   line by line: every run of other characters than letters becomes a space, but none is left at the ends of
             a line; the lines are joined with nothing between, so that words grow together ("himwas"): 170,580
             characters
    d2l-en   all at once: every such run becomes a space: 173,428 characters

Both write lower case, and have a vocabulary of 28: `<unk>`, the space and a-z (chapter "Text Preprocessing" of the zh
edition, "Converting Raw Text into Sequence Data" of the en edition). A model of either reads a request's text with the
normalization "letters", which is what d2l-en does.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from segue_training.text.normalization import normalized

_NO_LETTERS: Final = re.compile("[^A-Za-z]+")


def join_lines(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the text of the zh edition, in blocks; line ends are line feeds.

    A run without letters that holds a line feed lies at the ends of two lines, and vanishes; so do a run before the
    first letter and one behind the last. A run at the end of a block is held back, written as one character.
    """
    run = "\n"
    for block in blocks:
        text = _NO_LETTERS.sub(lambda match: "\n" if "\n" in match[0] else " ", run + block)
        complete = text.rstrip(" \n")
        run = text[len(complete) :]
        yield complete.replace("\n", "").lower()


PREPARATIONS: Final[Mapping[str, Callable[[Iterable[str]], Iterator[str]]]] = {
    "d2l-zh": join_lines,
    "d2l-en": partial(normalized, normalization="letters"),
}
"""What is done to a corpus in place of its normalization, by name."""
