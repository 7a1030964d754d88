"""The text to train on: named corpora, files, folders, globs, JSON lines and standard input.

A corpus is read in blocks and never held in memory whole.
"""

import glob
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from segue_training.data.download import Download, fetch
from segue_training.errors import CorpusError, did_you_mean
from segue_training.text.decoding import json_line_blocks, utf_8_blocks
from segue_training.text.normalization import normalized

STANDARD_INPUT: Final = "-"

_WILDCARD: Final = re.compile(r"[*?\[]")

TIME_MACHINE: Final = Download(
    url="http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
    sha256="8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516",
    file="timemachine.txt",
)
SHAKESPEARE: Final = Download(
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    file="tinyshakespeare.txt",
)


@dataclass(frozen=True)
class TextFile:
    """Bytes that can be read from their beginning."""

    origin: str
    """Its name in error messages."""
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class Corpus:
    """Files that are read one after the other; standard input and pipes only once."""

    name: str
    files: tuple[TextFile, ...]
    field: str | None = None
    """For JSON lines: the field that holds the text; None for plain text."""

    def blocks(self, *, lines: bool = False) -> Iterator[str]:
        """Yield the text in blocks. Raises CorpusError.

        Each file loses its byte order mark, and its line ends become line feeds. Files are concatenated; with `lines`,
        a line feed is added after each, so that no line continues in the next file. Each record of JSON lines is always
        followed by a line feed.
        """
        for file in self.files:
            yield from normalized(self._blocks(file), "line-feeds")
            yield "\n" if lines else ""

    def _blocks(self, file: TextFile) -> Iterator[str]:
        try:
            with file.open() as stream:
                if self.field is not None:
                    yield from json_line_blocks(stream, file.origin, self.field)
                else:
                    yield from utf_8_blocks(stream, file.origin)
        except OSError as error:
            raise CorpusError(f"cannot read {file.origin}: {error.strerror}") from error


def find_corpus(source: str, field: str | None = None) -> Corpus:
    """Return the corpus that `source` names, without reading its text. Raises CorpusError.

    `source` is a name in NAMED_CORPORA, `-` for standard input, a file, a folder (every *.txt below it) or a
    glob ("logs/**/*.log"); the files of a folder or glob are read in the order of their paths. A name takes precedence
    over a file of that name; `./name` is always the file. With `field`, the files are JSON lines, and a folder means
    every *.jsonl below it.
    """
    if source in NAMED_CORPORA:
        content = NAMED_CORPORA[source]
        return Corpus(source, (TextFile(source, lambda: io.BytesIO(content())),), field)
    if source == STANDARD_INPUT:
        return Corpus("stdin", (TextFile("standard input", _standard_input),), field)
    try:
        name, paths = _paths(source, "*.txt" if field is None else "*.jsonl")
    except OSError as error:
        raise CorpusError(f"cannot read {source}: {error.strerror}") from error
    return Corpus(name, tuple(map(_text_file, paths)), field)


def data_folder() -> Path:
    """Return the folder of downloaded corpora: $SEGUE_DATA, or ~/.cache/segue."""
    return Path(os.environ.get("SEGUE_DATA") or "~/.cache/segue").expanduser()


def _text_file(path: Path) -> TextFile:
    return TextFile(str(path), lambda: path.open("rb"))


def _paths(source: str, pattern: str) -> tuple[str, list[Path]]:
    """Return the corpus's name and its files."""
    path = Path(source)
    if path.is_dir():
        return path.resolve().name, _files(path.rglob(pattern), f"the folder {source} holds no {pattern} file")
    if path.exists():
        return path.stem, [path]
    if _WILDCARD.search(source):
        found = map(Path, glob.iglob(source, recursive=True))  # noqa: PTH207 - skips hidden files, as a shell does
        return _fixed_folder(path).resolve().name, _files(found, f"no file matches {source!r}")
    raise CorpusError(_unknown(source))


def _files(found: Iterable[Path], otherwise: str) -> list[Path]:
    files = sorted(path for path in found if path.is_file())
    if not files:
        raise CorpusError(otherwise)
    return files


def _fixed_folder(pattern: Path) -> Path:
    """Return the deepest folder of `pattern` without a wildcard."""
    return next(folder for folder in pattern.parents if not _WILDCARD.search(str(folder)))


def _unknown(source: str) -> str:
    known = ", ".join(NAMED_CORPORA)
    suggestion = did_you_mean(source, NAMED_CORPORA)
    return f"no file and no corpus is called {source!r}{suggestion} (corpora: {known}; - reads standard input)"


def _standard_input() -> BinaryIO:
    """Return standard input; the reader closes it."""
    if sys.stdin.closed:
        raise CorpusError("standard input can be read only once: write it to a file first")
    return sys.stdin.buffer


def _pydoc() -> bytes:
    """Join the topics of `help()`, sorted by name: the English reference text of this Python."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise CorpusError(
            "this Python was installed without pydoc_data; train on time-machine, shakespeare or a file"
        ) from None
    return "\n".join(topics[name] for name in sorted(topics)).encode()


NAMED_CORPORA: Final[Mapping[str, Callable[[], bytes]]] = {
    "pydoc": _pydoc,
    "time-machine": lambda: fetch(TIME_MACHINE, data_folder()),
    "shakespeare": lambda: fetch(SHAKESPEARE, data_folder()),
}
"""The built-in corpora by name."""
