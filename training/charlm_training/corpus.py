"""The text a model learns from: named corpora, files, folders and standard input.

Of every corpus the first 90 % is for training and the last 10 % for validation, counted in code points.
"""

import difflib
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from charlm_training.download import Download, fetch
from charlm_training.errors import CorpusError
from charlm_training.normalization import DEFAULT_NORMALIZATION, NORMALIZATIONS

STANDARD_INPUT: Final = "-"

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
class Corpus:
    """A text by name, after `normalization`."""

    name: str
    text: str
    normalization: str = DEFAULT_NORMALIZATION

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the text as UTF-8, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def training_text(self) -> str:
        """The first 90 %."""
        return self.text[: self._split]

    @property
    def validation_text(self) -> str:
        """The last 10 %."""
        return self.text[self._split :]

    @property
    def _split(self) -> int:
        return len(self.text) * 9 // 10


def load_corpus(source: str) -> Corpus:
    """Read the corpus that `source` names.

    `source` is a name in NAMED_CORPORA, `-` for standard input, a file, or a folder (every *.txt below it, in
    the order of their paths, joined). A name wins over a file of the same name; `./name` is always the file.
    Raises CorpusError.
    """
    if source in NAMED_CORPORA:
        return _corpus(source, NAMED_CORPORA[source](), source)
    if source == STANDARD_INPUT:
        return _corpus("stdin", sys.stdin.buffer.read(), "standard input")
    path = Path(source)
    try:
        if path.is_dir():
            return _folder(path)
        return _corpus(path.stem, path.read_bytes(), source)
    except FileNotFoundError:
        raise CorpusError(_unknown(source)) from None
    except OSError as error:
        raise CorpusError(f"cannot read {source}: {error.strerror}") from error


def data_folder() -> Path:
    """Return the folder that keeps downloaded corpora: $CHARLM_DATA, or ~/.cache/charlm."""
    return Path(os.environ.get("CHARLM_DATA") or "~/.cache/charlm").expanduser()


def _corpus(name: str, content: bytes, source: str) -> Corpus:
    return Corpus(name, NORMALIZATIONS[DEFAULT_NORMALIZATION](_decode(content, source)))


def _decode(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{source} is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start}; "
            "convert it first, for example with iconv -t utf-8"
        ) from None


def _folder(folder: Path) -> Corpus:
    """Join the *.txt files below `folder`; each is normalized alone: no byte order mark stays inside."""
    files = sorted(path for path in folder.rglob("*.txt") if path.is_file())
    if not files:
        raise CorpusError(f"the folder {folder} holds no *.txt file")
    return Corpus(
        folder.resolve().name,
        "".join(_corpus(path.stem, path.read_bytes(), str(path)).text for path in files),
    )


def _unknown(source: str) -> str:
    known = ", ".join(NAMED_CORPORA)
    close = difflib.get_close_matches(source, NAMED_CORPORA, n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    return f"no file and no corpus is called {source!r}{suggestion} (corpora: {known}; - reads standard input)"


def _pydoc() -> bytes:
    """Join the topics of `help()`, in the order of their names: the English reference text of this Python."""
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
"""The corpora that need no file of one's own, by name."""
