"""From a corpus to ids, in constant memory: texts larger than memory train.

The corpus is read once, and its normalized text written to a temporary file. From there its characters are counted,
and its ids written to another one, in the smallest type that holds them. The ids are mapped into memory, read-only;
their place on the disk is free again when nothing refers to them any more, however the process ends. The disk of
$TMPDIR needs room for the text and its ids: about twice the text.

Of every corpus the first 90 % is for training and the last 10 % for validation, counted in code points.

Shapes: N ids of a text.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Final

import numpy as np

from segue_training.data.corpus import Corpus, find_corpus
from segue_training.data.d2l_text import PREPARATIONS
from segue_training.data.text_file import TempText, spooled, temporary_file
from segue_training.errors import ConfigurationError, CorpusError
from segue_training.recipes import TrainingConfig
from segue_training.text.documents import whole_documents, without_empty_lines
from segue_training.text.normalization import normalized
from segue_training.text.vocabulary import Documents, Ids, Vocabulary, count_characters

LARGEST_BYTE: Final = 0xF4
"""The largest byte that UTF-8 uses."""


@dataclass(frozen=True)
class Reading:
    """What becomes of a text before it is encoded; the names are those of TrainingConfig."""

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
        """Return what `config` says."""
        return cls(config.normalization, config.preparation, config.documents)

    def blocks(self, corpus: Corpus) -> Iterator[str]:
        """Yield the text of `corpus` as a model reads it, in blocks. Raises CorpusError."""
        text = corpus.blocks(lines=self.documents == "lines")
        if self.preparation != "none":
            return PREPARATIONS[self.preparation](text)
        text = normalized(text, self.normalization)
        return without_empty_lines(text) if self.documents == "lines" else text


@dataclass(frozen=True)
class EncodedCorpus:
    """A text as ids: one for each code point, or in a vocabulary of bytes one for each byte of its UTF-8."""

    name: str
    sha256: str
    """Of the text as a model reads it, normalized and prepared: of its UTF-8, in hexadecimal."""
    characters: int
    """Code points of that text."""
    vocabulary: Vocabulary
    normalization: str
    ids: Ids = dataclass_field(repr=False, compare=False)
    """[N] of the whole text, read-only."""
    training: Ids = dataclass_field(repr=False, compare=False)
    """Those of the first 90 %, or of as much of its beginning as the configuration wants."""
    validation: Ids = dataclass_field(repr=False, compare=False)
    """Those of the last 10 %."""


def encode_corpus(source: str, config: TrainingConfig, field: str | None = None) -> EncodedCorpus:
    """Encode the corpus that `source` and `field` name (see `find_corpus`). Raises what `encode` raises."""
    return encode(find_corpus(source, field), config)


def encode(corpus: Corpus, config: TrainingConfig) -> EncodedCorpus:
    """Encode `corpus` as `config` says. Raises CorpusError and ConfigurationError.

    The vocabulary comes from the training part alone: a character that only validation text holds could not be
    learned, and is scored as `<unk>`, as a request's would be. Where documents are lines, no line is empty, none is
    cut, and the vocabulary holds the line feed.
    """
    reading = Reading.of(config)
    with spooled(reading.blocks(corpus)) as text:
        split = _split(text, reading)
        vocabulary = _vocabulary(text, split, config)
        encoded = _encoded(corpus.name, text, split, vocabulary, reading)
    return replace(
        encoded,
        training=_beginning(encoded.training, config.max_tokens, encoded.vocabulary, reading),
        validation=_beginning(encoded.validation, config.max_validation_tokens, encoded.vocabulary, reading),
    )


def encode_with(corpus: Corpus, vocabulary: Vocabulary, reading: Reading) -> EncodedCorpus:
    """Encode `corpus` for a model that has been trained. Raises CorpusError."""
    with spooled(reading.blocks(corpus)) as text:
        return _encoded(corpus.name, text, _split(text, reading), vocabulary, reading)


def _split(text: TempText, reading: Reading) -> int:
    """Return the code points of the training part: 90 %, to the end of a line where documents are lines."""
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


def _encoded(name: str, text: TempText, split: int, vocabulary: Vocabulary, reading: Reading) -> EncodedCorpus:
    ids_N = _ids(text, vocabulary)
    if vocabulary.alphabet == "bytes":
        split = sum(len(block.encode()) for block in text.first(split))
    return EncodedCorpus(
        name,
        text.sha256,
        text.characters,
        vocabulary,
        reading.normalization,
        ids=ids_N,
        training=ids_N[:split],
        validation=ids_N[split:],
    )


def _beginning(ids_N: Ids, longest: int, vocabulary: Vocabulary, reading: Reading) -> Ids:
    """Return the first `longest` ids (0 for all), or of documents those that are whole within them."""
    if longest == 0 or longest >= len(ids_N):
        return ids_N
    if reading.documents == "none":
        return ids_N[:longest]
    return whole_documents(ids_N[:longest], vocabulary.line_feed)


def _ids(text: TempText, vocabulary: Vocabulary) -> Ids:
    """Encode `text` into a temporary file and map that into memory."""
    largest = LARGEST_BYTE + 1 if vocabulary.alphabet == "bytes" else len(vocabulary) - 1
    dtype = np.min_scalar_type(largest)
    with temporary_file() as file:
        for block in text.blocks():
            file.write(vocabulary.encode(block).astype(dtype).data)
        if file.tell() == 0:  # which cannot be mapped
            return np.zeros(0, dtype)
        file.flush()
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype)
