"""The errors of artifacts. Each message is one line that names the value at fault and the remedy.

ArtifactError
|-- DamagedArtifact          a file is missing, or differs from the manifest
|   `-- ForeignGraph         the graph is not the one that export writes for its manifest
|-- ModelsNotFound           a folder without artifacts
|-- InvalidName              a model name that cannot be a folder's name
|-- UnsupportedArchitecture  a model without a recurrent state
|-- QuantizationError        quantization costs more than allowed; nothing was written
`-- ParityError              the ONNX graph and torch disagree; nothing was written
"""

from typing import ClassVar


class ArtifactError(Exception):
    """The base of all errors that this package raises on purpose."""

    exit_code: ClassVar[int] = 1
    """The command's exit status: 2 if its input is at fault, otherwise 1."""


class DamagedArtifact(ArtifactError):  # noqa: N818 - says what it is
    """A file of the artifact is missing, or differs from the manifest."""


class ForeignGraph(DamagedArtifact):
    """The graph is not the one that export writes for its manifest."""


class ModelsNotFound(ArtifactError):  # noqa: N818 - says what it is
    """A folder without artifacts."""

    exit_code = 2


class InvalidName(ArtifactError):  # noqa: N818 - says what it is
    """A model name that cannot be a folder's name."""

    exit_code = 2


class UnsupportedArchitecture(ArtifactError):  # noqa: N818 - says what it is
    """A model without a recurrent state."""

    exit_code = 2


class ParityError(ArtifactError):
    """The ONNX graph and torch disagree by more than rounding."""


class QuantizationError(ArtifactError):
    """Quantization costs more than allowed."""
