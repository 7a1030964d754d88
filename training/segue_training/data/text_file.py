"""A text that has been read once, in a temporary file, to be read again as often as wanted.

The file has no name: its place on the disk is free when it is closed, however the process ends. It lies in the folder
that Python's `tempfile` chooses: $TMPDIR, or else /tmp.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from segue_training.errors import CorpusError
from segue_training.text.decoding import utf_8_blocks


@dataclass(frozen=True)
class TempText:
    """A text in a file."""

    file: BinaryIO
    sha256: str
    """Of the text as UTF-8, in hexadecimal."""
    characters: int
    """Its length in code points."""

    def blocks(self) -> Iterator[str]:
        """Yield the text, in blocks, from its beginning. Only one reader at a time."""
        self.file.seek(0)
        return utf_8_blocks(self.file, "the temporary file")

    def first(self, characters: int) -> Iterator[str]:
        """Yield the first so many code points."""
        for block in self.blocks():
            yield block[:characters]
            characters -= len(block)
            if characters <= 0:
                return

    def next_line(self, position: int) -> int:
        """Return where the first line begins that does not begin before `position`; the length if none does."""
        before = 0
        for block in self.blocks():
            line_end = block.find("\n", max(position - 1 - before, 0))
            if line_end >= 0:
                return before + line_end + 1
            before += len(block)
        return self.characters


@contextmanager
def spooled(blocks: Iterable[str]) -> Iterator[TempText]:
    """Write a text to a temporary file, which lasts as long as the context. Raises CorpusError."""
    with temporary_file() as file:
        digest, characters = hashlib.sha256(), 0
        for block in blocks:
            content = block.encode()
            file.write(content)
            digest.update(content)
            characters += len(block)
        yield TempText(file, digest.hexdigest(), characters)


@contextmanager
def temporary_file() -> Iterator[BinaryIO]:
    """Open a file without a name, to be written and read. An OSError in the context becomes a CorpusError."""
    try:
        with tempfile.TemporaryFile(prefix="segue-") as file:
            yield file
    except OSError as error:
        raise CorpusError(
            f"cannot write the text to a temporary file: {error.strerror}; set TMPDIR to a folder with more room"
        ) from error
