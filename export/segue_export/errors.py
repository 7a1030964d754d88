"""What goes wrong with artifacts, as one line for the person who can mend it.

ArtifactError
|-- DamagedArtifact          a file is missing, or is not what the manifest says
|   `-- ForeignGraph         the model file is not one that export writes for its manifest
|-- ModelsNotFound           a folder that holds no artifact
|-- InvalidName              a model name that could not be a folder's name
|-- UnsupportedArchitecture  a model without a recurrent state
|-- QuantizationError        int8 costs more than allowed; nothing was written
`-- ParityError              the ONNX graph and torch disagree; nothing was written
"""

from typing import ClassVar


class ArtifactError(Exception):
    """The base of everything that this package raises on purpose."""

    exit_code: ClassVar[int] = 1
    """The exit status of a command that ends with this error: 2 where its input is at fault, otherwise 1."""


class DamagedArtifact(ArtifactError):  # noqa: N818 - says what it is
    """A file of the artifact is missing, or is not what the manifest says."""


class ForeignGraph(DamagedArtifact):
    """The model file is not one that export writes for its manifest."""


class ModelsNotFound(ArtifactError):  # noqa: N818 - says what it is
    """A folder that holds no artifact."""

    exit_code = 2


class InvalidName(ArtifactError):  # noqa: N818 - says what it is
    """A model name that could not be a folder's name."""

    exit_code = 2


class UnsupportedArchitecture(ArtifactError):  # noqa: N818 - says what it is
    """A model without a recurrent state, which an artifact is made to hold."""

    exit_code = 2


class ParityError(ArtifactError):
    """The ONNX graph and torch disagree by more than rounding."""


class QuantizationError(ArtifactError):
    """Rounding the weights costs more than allowed."""
