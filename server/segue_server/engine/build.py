"""Which arithmetic a state comes from: the build of a model, and the class of the host that runs it."""

from dataclasses import dataclass

from segue_server.engine.model import Model


@dataclass(frozen=True, slots=True)
class Build:
    """Two states of equal builds are continued alike, to the bit."""

    sha256: bytes
    """Of the model's graph, 32 bytes."""
    family: bytes
    """What all builds of one trained model share, 32 bytes; see `Manifest.family`."""
    host_class: bytes
    """See `self_check`, 16 bytes."""

    @classmethod
    def of(cls, model: Model, host_class: bytes) -> "Build":
        """Return the build that `model` is here."""
        return cls(bytes.fromhex(model.sha256), bytes.fromhex(model.manifest.family), host_class)
