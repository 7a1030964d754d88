"""The manifest: what a model is, where it comes from, and the SHA-256 of its artifact's files.

It is stored twice: as the artifact's manifest.json, and without `files` under METADATA_KEY in the graph's metadata.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import msgspec
from numpy.typing import NDArray
from segue_training.text.normalization import NORMALIZATIONS
from segue_training.text.vocabulary import UNKNOWN_ID, Alphabet, Documents, Vocabulary

FORMAT_VERSION: Final = 1
METADATA_KEY: Final = "segue.manifest"
MANIFEST_FILE: Final = "manifest.json"
ARCHITECTURES: Final = ("lstm", "gru", "gru-reset-before", "rnn")
"""The architectures with a recurrent state, which the portable graph can hold."""

WeightType = Literal["float32", "float16", "int8"]

Weights = Mapping[str, NDArray[Any]]
"""By torch's names; see `graphs.portable.portable_graph`."""

_Positive = Annotated[int, msgspec.Meta(ge=1, le=2**62)]


@dataclass(frozen=True)
class CorpusDescription:
    """The text that a model was trained on."""

    name: str
    sha256: str
    """Of the normalized UTF-8."""
    characters: _Positive
    """Code points."""
    preparation: Literal["none", "d2l-zh", "d2l-en"] = "none"
    """What replaced the normalization for this corpus; other texts get the normalization."""


@dataclass(frozen=True)
class RunDescription:
    """How far the run was from which the weights were taken."""

    steps: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    """Steps that the weights were trained for."""
    taken: _Positive
    """Steps that the run had taken."""
    planned: _Positive
    """Steps that it was to take; more than `taken` if it was stopped."""
    base: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """SHA-256 of the weights that the run began with; None if they were random."""


@dataclass(frozen=True)
class Manifest:
    """What a model is and where it comes from; every manifest that decodes is valid."""

    format_version: int
    architecture: str
    layers: Annotated[int, msgspec.Meta(ge=1, le=64)]
    hidden: Annotated[int, msgspec.Meta(ge=1, le=2**14)]
    characters: Annotated[tuple[str, ...], msgspec.Meta(max_length=2**16)]
    normalization: str
    begin: str
    corpus: CorpusDescription
    validation_loss: float
    """Nats per character of the held-out text, from the zero state."""
    recipe: str
    tools: Mapping[str, str]
    """Versions of the tools that made the artifact, by name."""
    files: Mapping[str, str]
    """SHA-256 of every other file of the artifact, by name. Empty in the graph's metadata."""
    alphabet: Alphabet = "characters"
    """What the model reads in one step: a character, or a byte of UTF-8."""
    weights: WeightType = "float32"
    """The type in which the matrices of the recurrent layers and the output are stored and multiplied by the server.

    With "float16", CUDA also rounds h and each product to float16, while the CPU multiplies in float32. With "int8",
    each row of a matrix has its own scale, and h is rounded to 7 bits before each product.
    """
    documents: Documents = "none"
    """"lines": each text is one line, read from the zero state and enclosed by line feeds."""
    run: RunDescription | None = None
    """None: not recorded."""
    float16_rise: float | None = None
    """By what share the perplexity of float32 weights rises if they are multiplied in float16; None: not measured."""

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f"format version {self.format_version}; this segue reads version {FORMAT_VERSION}")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization {self.normalization!r}; known: {', '.join(NORMALIZATIONS)}")
        first = self.vocabulary.encode(self.begin).tolist()
        if len(first) != 1 or first == [UNKNOWN_ID]:
            raise ValueError(f"begin is {self.begin!r}, which is not one symbol of the vocabulary")
        if self.documents == "lines" and self.begin != "\n":
            raise ValueError(f"begin is {self.begin!r}, and with documents='lines' it must be a line feed")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Symbols and their ids."""
        return Vocabulary(self.characters, self.alphabet)

    @cached_property
    def family(self) -> str:
        """SHA-256 of what all exports of one trained model share, whatever the type of their weights."""
        shared = msgspec.to_builtins(replace(self, weights="float32", tools={}, files={}))
        del shared["float16_rise"]  # known of one export and not of another
        if self.run is None:  # as before runs were recorded, so that tickets of such models stay valid
            del shared["run"]
        return hashlib.sha256(to_json(shared)).hexdigest()

    def normalize(self, text: str) -> str:
        """Return `text` in the model's normalization."""
        return NORMALIZATIONS[self.normalization](text)

    def to_json(self) -> bytes:
        """Return the manifest as indented UTF-8 JSON."""
        return to_json(self)

    @classmethod
    def from_json(cls, document: bytes | str) -> "Manifest":
        """Decode the output of `to_json`; msgspec.MsgspecError names the field at fault."""
        try:
            return msgspec.json.decode(document, type=cls)
        except (RecursionError, UnicodeDecodeError) as error:
            raise msgspec.DecodeError("nested too deeply, or not UTF-8") from error


def to_json(value: object) -> bytes:
    """Return `value` as indented UTF-8 JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
