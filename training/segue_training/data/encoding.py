"""From a corpus to ids, in constant memory, so that the text may be larger than memory.

The corpus is read once, and its normalized text is written to a temporary file. Its characters are counted there, and
its ids are written to a second file in the smallest type that holds them. That file is mapped into memory, read-only;
its disk space is freed when the last reference is gone, however the process ends. $TMPDIR needs about twice the size of
the text.

The first 90 % of every corpus is for training and the last 10 % for validation, in code points.

Shapes: N ids of a text.
"""

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Final, Literal

import numpy as np

from segue_training.data.corpus import Corpus, find_corpus
from segue_training.data.d2l_text import PREPARATIONS
from segue_training.data.sources import BadRows, ReadText, Sources
from segue_training.data.temp_text import TempText, temp_text, temporary_file
from segue_training.errors import ConfigurationError, CorpusError
from segue_training.recipes import TrainingConfig
from segue_training.text.decoding import LeaveOut, stop_at
from segue_training.text.documents import whole_documents, without_empty_lines
from segue_training.text.normalization import normalized
from segue_training.text.vocabulary import Documents, Ids, Vocabulary, count_characters

Policy = Literal["stop", "skip"]
"""What a line that cannot be read does: it ends the reading, or is left out."""

LARGEST_BYTE: Final = 0xF4
"""The largest byte that UTF-8 uses."""


@dataclass(frozen=True)
class Reading:
    """How a text is processed before it is encoded; the names are those of TrainingConfig."""

    normalization: str
    preparation: str = "none"
    documents: Documents = "none"

    def __post_init__(self) -> None:
        if self.documents == "lines" and self.normalization == "letters":
            raise ConfigurationError(
                "normalization 'letters' leaves no line feeds, which documents='lines' needs; "
                "set normalization=line-feeds or documents=none"
            )

    @classmethod
    def of(cls, config: TrainingConfig) -> "Reading":
        """Return the reading that `config` specifies."""
        return cls(config.normalization, config.preparation, config.documents)

    def blocks(
        self, corpus: Corpus, note: Callable[[ReadText], None] = lambda _: None, bad: LeaveOut = stop_at
    ) -> Iterator[str]:
        """Yield the text of `corpus` in blocks, as a model reads it, and `note` each file. Raises CorpusError."""
        text = corpus.blocks(lines=self.documents == "lines", note=note, bad=bad)
        if self.preparation != "none":
            return PREPARATIONS[self.preparation](text)
        text = normalized(text, self.normalization)
        return without_empty_lines(text) if self.documents == "lines" else text


@dataclass(frozen=True)
class EncodedCorpus:
    """A text as ids: one for each code point, or with a vocabulary of bytes one for each byte of UTF-8."""

    name: str
    sha256: str
    """Of the normalized and prepared text as UTF-8, in hexadecimal."""
    characters: int
    """Code points of that text."""
    vocabulary: Vocabulary
    ids: Ids = dataclass_field(repr=False, compare=False)
    """[N] of the whole text, read-only."""
    training: Ids = dataclass_field(repr=False, compare=False)
    """Of the first 90 %, up to `max_tokens`."""
    validation: Ids = dataclass_field(repr=False, compare=False)
    """Of the last 10 %, up to `max_validation_tokens`."""
    sources: Sources = dataclass_field(default_factory=Sources, repr=False, compare=False)


def encode_corpus(source: str, config: TrainingConfig, field: str | None = None) -> EncodedCorpus:
    """Encode the corpus that `source` and `field` name (see `find_corpus`). Raises as `encode` does."""
    return encode(find_corpus(source, field), config)


def encode(
    corpus: Corpus, config: TrainingConfig, vocabulary: Vocabulary | None = None, bad_rows: Policy = "stop"
) -> EncodedCorpus:
    """Encode `corpus` for training. Raises CorpusError, for a bad line if `bad_rows` is "stop", and ConfigurationError.

    Unless it is given, the vocabulary comes from the training part alone: a character that occurs only in validation
    text cannot be learned and is scored as `<unk>`, as in a request. With documents="lines", no line is empty or cut,
    and the vocabulary holds the line feed.
    """
    reading, read, rows = Reading.of(config), list[ReadText](), BadRows()
    with temp_text(reading.blocks(corpus, read.append, rows.add if bad_rows == "skip" else stop_at)) as text:
        split = _split(text, reading)
        vocabulary = vocabulary or _vocabulary(text, split, config)
        encoded = _encoded(corpus.name, text, split, vocabulary)
    return replace(
        encoded,
        training=_beginning(encoded.training, config.max_tokens, encoded.vocabulary, reading),
        validation=_beginning(encoded.validation, config.max_validation_tokens, encoded.vocabulary, reading),
        sources=Sources.of(read, corpus.skipped, rows),
    )


def encode_with(corpus: Corpus, vocabulary: Vocabulary, reading: Reading) -> EncodedCorpus:
    """Encode `corpus` for a trained model. Raises CorpusError."""
    read = list[ReadText]()
    with temp_text(reading.blocks(corpus, read.append)) as text:
        encoded = _encoded(corpus.name, text, _split(text, reading), vocabulary)
    return replace(encoded, sources=Sources.of(read, corpus.skipped))


def _split(text: TempText, reading: Reading) -> int:
    """Return the code points of the training part: 90 %, extended to the end of a line if documents are lines."""
    split = text.characters * 9 // 10
    return text.next_line(split) if reading.documents == "lines" else split


def _vocabulary(text: TempText, split: int, config: TrainingConfig) -> Vocabulary:
    if config.alphabet == "bytes":
        return Vocabulary.of_bytes()
    counts = count_characters(text.first(split))
    if config.documents == "lines":
        counts["\n"] = max(counts["\n"], config.minimum_count)
    vocabulary = Vocabulary.from_counts(counts, config.minimum_count)
    if counts and len(vocabulary) == 1:
        raise CorpusError(
            f"no character occurs {config.minimum_count} times in the training text, the most frequent one "
            f"{max(counts.values())} times: set a smaller minimum_count"
        )
    return vocabulary


def _encoded(name: str, text: TempText, split: int, vocabulary: Vocabulary) -> EncodedCorpus:
    ids_N = _ids(text, vocabulary)
    if vocabulary.alphabet == "bytes":
        split = sum(len(block.encode()) for block in text.first(split))
    return EncodedCorpus(
        name, text.sha256, text.characters, vocabulary, ids_N, training=ids_N[:split], validation=ids_N[split:]
    )


def _beginning(ids_N: Ids, longest: int, vocabulary: Vocabulary, reading: Reading) -> Ids:
    """Return the first `longest` ids (0: all), without a cut document at the end."""
    if longest == 0 or longest >= len(ids_N):
        return ids_N
    if reading.documents == "none":
        return ids_N[:longest]
    return whole_documents(ids_N[:longest], vocabulary.line_feed)


def _ids(text: TempText, vocabulary: Vocabulary) -> Ids:
    """Encode `text` into a temporary file and map it into memory."""
    largest = LARGEST_BYTE + 1 if vocabulary.alphabet == "bytes" else len(vocabulary) - 1
    dtype = np.min_scalar_type(largest)
    with temporary_file() as file:
        for block in text.blocks():
            file.write(vocabulary.encode(block).astype(dtype).data)
        if file.tell() == 0:  # an empty file cannot be mapped
            return np.zeros(0, dtype)
        file.flush()
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype)
