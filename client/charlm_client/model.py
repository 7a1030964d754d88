"""A model as its server describes it."""

import math
from dataclasses import dataclass

from charlm.v1 import model_pb2


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
    )
