"""Which arithmetic made a state: the build of a model, and the class of the host that runs it."""

from dataclasses import dataclass

from segue_server.engine.model import Model


@dataclass(frozen=True, slots=True)
class Build:
    """States of equal builds continue with the same bits."""

    sha256: bytes
    """Of the model's graph, 32 bytes."""
    family: bytes
    """The same for all builds of one trained model, 32 bytes; see `Manifest.family`."""
    host_class: bytes
    """See `self_check`, 16 bytes."""

    @classmethod
    def of(cls, model: Model, host_class: bytes) -> "Build":
        """Return the build of `model` on a host of `host_class`."""
        return cls(bytes.fromhex(model.sha256), bytes.fromhex(model.manifest.family), host_class)
