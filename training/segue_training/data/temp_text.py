"""A text in a temporary file, so that a source that can be read only once is read several times.

The file has no name: its disk space is freed when it is closed, however the process ends. Its folder is that of
Python's `tempfile`: $TMPDIR, or else /tmp.
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
    """A text in a temporary file."""

    file: BinaryIO
    sha256: str
    """Of the text as UTF-8, in hexadecimal."""
    characters: int
    """Its length in code points."""

    def blocks(self) -> Iterator[str]:
        """Yield the text in blocks from its beginning. Only one reader at a time."""
        self.file.seek(0)
        return utf_8_blocks(self.file, "the temporary file")

    def first(self, characters: int) -> Iterator[str]:
        """Yield the first `characters` code points in blocks."""
        for block in self.blocks():
            yield block[:characters]
            characters -= len(block)
            if characters <= 0:
                return

    def next_line(self, position: int) -> int:
        """Return the start of the first line that starts at or after `position`, or else the text's length."""
        before = 0
        for block in self.blocks():
            line_end = block.find("\n", max(position - 1 - before, 0))
            if line_end >= 0:
                return before + line_end + 1
            before += len(block)
        return self.characters


@contextmanager
def temp_text(blocks: Iterable[str]) -> Iterator[TempText]:
    """Write a text to a temporary file that lives as long as the context. Raises CorpusError."""
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
    """Open a nameless file for writing and reading. An OSError within the context becomes a CorpusError."""
    try:
        with tempfile.TemporaryFile(prefix="segue-") as file:
            yield file
    except OSError as error:
        raise CorpusError(
            f"cannot write the text to a temporary file: {error.strerror}; set TMPDIR to a folder with more room"
        ) from error
