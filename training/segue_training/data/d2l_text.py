"""How the two editions of Dive into Deep Learning read The Time Machine, character by character.

    d2l-zh   line by line: every run of non-letters becomes a space, lines are stripped and then joined without a
             separator, which merges words ("himwas"): 170,580 characters
    d2l-en   at once: every run of non-letters becomes a space: 173,428 characters

Both lower the case and have a vocabulary of 28: `<unk>`, the space and a-z (chapter "Text Preprocessing" of the zh
edition, "Converting Raw Text into Sequence Data" of the en edition). A model of either reads requests with the
normalization "letters", which equals d2l-en.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from segue_training.text.normalization import normalized

_NO_LETTERS: Final = re.compile("[^A-Za-z]+")


def join_lines(blocks: Iterable[str]) -> Iterator[str]:
    """Yield the text of the zh edition in blocks; line ends are line feeds.

    A run of non-letters with a line feed is stripped from two lines and vanishes; so does a run before the first letter
    or after the last. A run at the end of a block is held back, shortened to one character.
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
"""Functions, by name, that replace the normalization of a corpus."""
