"""A model as its server describes it."""

import math
from dataclasses import dataclass

from segue.v1 import model_pb2


@dataclass(frozen=True, kw_only=True)
class PrefixCache:
    """What the states that a server keeps behind prompts, in case the same characters come again, are worth."""

    hits: int
    """Prompts of which at least one symbol was not read anew."""
    misses: int
    """Prompts that were read whole."""
    symbols_saved: int
    """Symbols that were not read anew."""
    states: int
    """States in the cache now."""
    bytes: int
    """How much memory they take."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A loaded artifact and how it is being served."""

    name: str
    version: int
    sha256: str
    """Of `model.onnx`, 64 hexadecimal digits. A ticket belongs to it."""
    architecture: str
    layers: int
    hidden: int
    """The number of units of a layer."""
    vocabulary: tuple[str, ...]
    """The characters it knows, by id: `<unk>` first. Empty for a model of bytes, which knows every character."""
    begin: str
    """The character that an empty prompt from the zero state is read as, and that begins every document."""
    normalization: str
    corpus: str
    validation_loss: float
    """Nats for each character of the held-out text, read from the zero state."""
    provider: str
    """The ONNX Runtime execution provider that it runs on."""
    reproducible: bool
    """Whether the server found every result on its host independent of batch and tick length."""
    live_sequences: int
    """How many sequences are running or waiting now."""
    alphabet: str
    """What it reads and writes at one step: "characters", or "bytes" of UTF-8."""
    documents: str
    """"none", or "lines": each line is a text of its own, which a line feed begins and ends."""
    host_class: str
    """The class of the host, 32 hexadecimal digits: hosts of one class continue each other's states to the bit."""
    ticket_bytes: int
    """How large each ticket is."""
    prefix_cache: PrefixCache
    """What became of the prompts so far, of all tenants."""

    @property
    def validation_perplexity(self) -> float:
        """The validation loss as a perplexity: exp of it."""
        return math.exp(self.validation_loss)


def model_from(message: model_pb2.Model) -> Model:
    """Translate the wire's description."""
    return Model(
        name=message.name,
        version=message.version,
        sha256=message.sha256,
        architecture=message.architecture,
        layers=message.layers,
        hidden=message.hidden,
        vocabulary=tuple(message.vocabulary),
        begin=message.begin,
        normalization=message.normalization,
        corpus=message.corpus,
        validation_loss=message.validation_loss,
        provider=message.provider,
        reproducible=message.reproducible,
        live_sequences=message.live_sequences,
        alphabet=message.alphabet,
        documents=message.documents,
        host_class=message.host_class,
        ticket_bytes=message.ticket_bytes,
        prefix_cache=_prefix_cache(message.prefix_cache),
    )


def _prefix_cache(message: model_pb2.PrefixCache) -> PrefixCache:
    return PrefixCache(
        hits=message.hits,
        misses=message.misses,
        symbols_saved=message.symbols_saved,
        states=message.states,
        bytes=message.bytes,
    )
