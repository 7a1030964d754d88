"""What the server answers when it does not do what was asked. Each class carries its gRPC status.

RequestError
|-- InvalidRequest    INVALID_ARGUMENT    a field out of its range
|-- InvalidTicket     INVALID_ARGUMENT    a ticket that this model cannot continue
|-- UnknownModel      NOT_FOUND           a model that is not loaded
|-- Overloaded        RESOURCE_EXHAUSTED  no place for another sequence; says when to retry
|-- Stalled           ABORTED             the client stopped reading its stream
|-- Stopping          UNAVAILABLE         the server is going away
`-- EngineFailed      INTERNAL            the engine broke; the log says why

StartupError          ends `charlm serve` with one line and its exit code
"""

from typing import ClassVar

import grpc


class RequestError(Exception):
    """A request that gets a status instead of an answer. The text reaches the client: no paths, no internals."""

    status: ClassVar[grpc.StatusCode]
    reason: ClassVar[str]
    """For programs: google.rpc.ErrorInfo.reason, under the domain "charlm"."""


class InvalidRequest(RequestError):  # noqa: N818 - these names are what went wrong
    """A field out of its range; the text names field, value and range."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"


class InvalidTicket(RequestError):  # noqa: N818
    """A ticket that is damaged or belongs to another model. One text for all causes."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_TICKET"


class UnknownModel(RequestError):  # noqa: N818
    """A model that is not loaded."""

    status = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_MODEL"


class Overloaded(RequestError):  # noqa: N818
    """No place for another sequence."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"


class Stalled(RequestError):  # noqa: N818
    """The client stopped reading its stream."""

    status = grpc.StatusCode.ABORTED
    reason = "STALLED"


class Stopping(RequestError):  # noqa: N818
    """The server is going away."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "STOPPING"


class EngineFailed(RequestError):  # noqa: N818
    """The engine broke. What happened stands in the server's log."""

    status = grpc.StatusCode.INTERNAL
    reason = "ENGINE_FAILED"


class StartupError(Exception):
    """The server cannot start; the text names the value at fault and the remedy."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
