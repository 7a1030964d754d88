"""A model as described by its server."""

import math
from dataclasses import dataclass, fields
from typing import Any

from segue.v1 import model_pb2


@dataclass(frozen=True, kw_only=True)
class PrefixCache:
    """How often the states that a server keeps after prompts were reused."""

    hits: int
    """Prompts of which at least one symbol was not read again."""
    misses: int
    """Prompts that were read in full."""
    symbols_saved: int
    """Symbols that were not read again."""
    states: int
    """States in the cache now."""
    bytes: int
    """The memory that they take."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A loaded artifact, and how it is served."""

    name: str
    version: int
    sha256: str
    """Of `model.onnx`, 64 hexadecimal digits. Tickets are bound to it."""
    architecture: str
    layers: int
    hidden: int
    """Units per layer."""
    vocabulary: tuple[str, ...]
    """The known characters by id, `<unk>` first. Empty for a model of bytes, which knows every character."""
    begin: str
    """The character that begins every document, and replaces an empty prompt from the zero state."""
    normalization: str
    corpus: str
    validation_loss: float
    """Nats per character of the held-out text, read from the zero state."""
    provider: str
    """The ONNX Runtime execution provider."""
    reproducible: bool
    """Whether the server found results on its host independent of batching and tick length."""
    live_sequences: int
    """Sequences running or waiting now."""
    alphabet: str
    """What one step reads or writes: "characters", or "bytes" of UTF-8."""
    documents: str
    """"none", or "lines": each line is a text of its own, which a line feed begins and ends."""
    host_class: str
    """The class of the host, 32 hexadecimal digits. Hosts of one class continue each other's states bit for bit."""
    ticket_bytes: int
    """The size of each ticket."""
    prefix_cache: PrefixCache
    """Counted since the start of the server, over all tenants."""

    @property
    def validation_perplexity(self) -> float:
        """Exp of the validation loss."""
        return math.exp(self.validation_loss)


def model_from(message: model_pb2.Model) -> Model:
    """Translate the wire's description, whose fields have the same names."""
    prefix_cache = PrefixCache(**_fields(PrefixCache, message.prefix_cache))
    return Model(**_fields(Model, message) | {"vocabulary": tuple(message.vocabulary), "prefix_cache": prefix_cache})


def _fields(kind: type[Model | PrefixCache], message: model_pb2.Model | model_pb2.PrefixCache) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in fields(kind)}
