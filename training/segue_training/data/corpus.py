"""The text to train on: named corpora, files, folders, globs, JSON lines and standard input, compressed or not.

A corpus is read in blocks and never held in memory whole.
"""

import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from segue_training.data.compression import SUFFIXES, compression_of, decompressed, rewound
from segue_training.data.download import Download, fetch
from segue_training.data.file_names import name_to_text, shell_word, shown
from segue_training.data.selection import WILDCARD, Selection, files_of_folder, files_of_pattern, fixed_folder
from segue_training.data.sources import ReadText, Skipped
from segue_training.errors import CorpusError, did_you_mean
from segue_training.text.decoding import ICONV, LeaveOut, json_line_blocks, stop_at, utf_8_blocks, utf_8_lines
from segue_training.text.encodings import HEAD, check_is_text
from segue_training.text.normalization import normalized

STANDARD_INPUT: Final = "-"

TIME_MACHINE: Final = Download(
    url="https://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
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
    """Its name in messages."""
    open: Callable[[], BinaryIO]
    word: str = ""
    """Its name for a shell; empty if it has none, as standard input."""

    def remedy(self, compressed_by: str | None) -> str:
        """Return the command that converts it to UTF-8, a format string for its encoding."""
        if compressed_by is not None:
            return _format_string(f"{compressed_by} -dc {self.word}".rstrip()) + f" | {ICONV}"
        return f"{ICONV} {_format_string(self.word)}".rstrip()


@dataclass(frozen=True)
class Corpus:
    """Files that are read one after the other; standard input and pipes only once."""

    name: str
    files: tuple[TextFile, ...]
    field: str | None = None
    """For JSON lines: the field that holds the text; None for plain text."""

    skipped: tuple[Skipped, ...] = ()
    """What was left out of a folder or glob."""

    def blocks(
        self,
        *,
        lines: bool = False,
        note: Callable[[ReadText], None] = lambda _: None,
        bad: LeaveOut = stop_at,
    ) -> Iterator[str]:
        """Yield the text in blocks. Raises CorpusError.

        Each file loses its byte order mark, and its line ends become line feeds. Files are concatenated; with `lines`,
        a line feed is added after each, so that no line continues in the next file. Each record of JSON lines is always
        followed by a line feed. `note` is called after each file, and `bad` with each
        record, or with `lines` each line that is not UTF-8.
        """
        for file in self.files:
            characters, digest = 0, hashlib.sha256()
            for block in normalized(self._blocks(file, bad, lines=lines), "line-feeds"):
                characters += len(block)
                digest.update(block.encode())
                yield block
            note(ReadText(file.origin, characters, digest.hexdigest()))
            yield "\n" if lines else ""

    def _blocks(self, file: TextFile, bad: LeaveOut, *, lines: bool) -> Iterator[str]:
        try:
            with file.open() as stream:
                content, remedy = _content(stream, file)
                if self.field is not None:
                    yield from json_line_blocks(content, file.origin, self.field, remedy, bad)
                elif lines and bad is not stop_at:
                    yield from utf_8_lines(content, file.origin, remedy, bad)
                else:
                    yield from utf_8_blocks(content, file.origin, remedy)
        except OSError as error:
            raise CorpusError(f"cannot read {file.origin}: {error.strerror}") from error


def find_corpus(source: str, field: str | None = None) -> Corpus:
    """Return the corpus that `source` names, without reading its text. Raises CorpusError.

    `source` is a name in NAMED_CORPORA, `-` for standard input, a file, a folder (every *.txt below it) or a
    glob ("logs/**/*.log"); the files of a folder or glob are read in the order of their paths (see `selection` for what
    is left out). A name takes precedence over a file of that name; `./name` is always the file. With `field`, the files
    are JSON lines, and a folder means every *.jsonl below it.
    """
    if source in NAMED_CORPORA:
        content = NAMED_CORPORA[source]
        return Corpus(source, (TextFile(source, lambda: io.BytesIO(content())),), field)
    if source == STANDARD_INPUT:
        return Corpus("stdin", (TextFile("standard input", _standard_input),), field)
    try:
        name, selection = _selected(source, ".txt" if field is None else ".jsonl")
    except OSError as error:
        raise CorpusError(f"cannot read {shown(error.filename or source)}: {error.strerror}") from error
    return Corpus(name_to_text(name), tuple(map(_text_file, selection.files)), field, selection.skipped)


def data_folder() -> Path:
    """Return the folder of downloaded corpora: $SEGUE_DATA, or ~/.cache/segue."""
    return Path(os.environ.get("SEGUE_DATA") or "~/.cache/segue").expanduser()


def _text_file(path: Path) -> TextFile:
    return TextFile(shown(str(path)), lambda: path.open("rb"), shell_word(str(path)))


def _content(stream: BinaryIO, file: TextFile) -> tuple[BinaryIO, str]:
    """Return the decompressed bytes of `stream`, and how to convert the file. Raises CorpusError if it is no text."""
    head = stream.read(HEAD)
    compression = compression_of(head, file.origin)
    content = rewound(head, stream)
    if compression is not None:
        content = decompressed(content, compression, file.origin)
        head = content.read(HEAD)
        content = rewound(head, content)
    remedy = file.remedy(compression.tool if compression else None)
    check_is_text(head, file.origin, remedy)
    return content, remedy


def _format_string(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _selected(source: str, suffix: str) -> tuple[str, Selection]:
    """Return the corpus's name and its files."""
    path = Path(source)
    if path.is_dir():
        return path.resolve().name, files_of_folder(path, suffix)
    if path.exists():
        return _stem(path), Selection((path,))
    if WILDCARD.search(source):
        return fixed_folder(source).resolve().name, files_of_pattern(source)
    raise CorpusError(_unknown(source))


def _stem(path: Path) -> str:
    """Return a file's name without its suffix, and without that of its compression."""
    return Path(path.stem).stem if path.suffix.lower() in SUFFIXES and Path(path.stem).suffix else path.stem


def _unknown(source: str) -> str:
    known = ", ".join(NAMED_CORPORA)
    suggestion = did_you_mean(source, NAMED_CORPORA)
    return f"no file and no corpus is called {shown(source)!r}{suggestion} (corpora: {known}; - reads standard input)"


def _standard_input() -> BinaryIO:
    """Return standard input; the reader closes it."""
    if sys.stdin is None:
        raise CorpusError("standard input is closed: name a file instead of -, or redirect one with < FILE")
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
