"""What the server answers when it does not do what was asked. Each class carries its gRPC status.

RequestError
|-- InvalidRequest    INVALID_ARGUMENT    a field out of its range
|-- InvalidTicket     INVALID_ARGUMENT    a ticket that this model cannot continue
|-- NotExact          FAILED_PRECONDITION a state that this host would continue with other roundings
|-- UnknownModel      NOT_FOUND           a model that is not loaded
|-- UnknownSession    NOT_FOUND           a session that is not there
|-- ForeignSession    FAILED_PRECONDITION a session of another model of the same name, or of another key
|-- SessionExists     ALREADY_EXISTS      a name that a session has already
|-- SessionMoved      ABORTED             a session that stands elsewhere than the call assumed
|-- NotRewindable     OUT_OF_RANGE        further back than a session remembers
|-- StoreFull         RESOURCE_EXHAUSTED  no room for another session: none makes room for it
|-- StoreUnavailable  UNAVAILABLE         the sessions' store does not answer
|-- Overloaded        RESOURCE_EXHAUSTED  no place for another sequence; says when to retry
|-- Stalled           ABORTED             the client stopped reading its stream, or never began it
|-- Stopping          UNAVAILABLE         the server is going away
`-- EngineFailed      INTERNAL            the engine broke; the log says why

StartupError          ends `segue serve` with one line and its exit code
"""

from typing import ClassVar

import grpc


class RequestError(Exception):
    """A request that gets a status instead of an answer. The text reaches the client: no paths, no internals."""

    status: ClassVar[grpc.StatusCode]
    reason: ClassVar[str]
    """For programs: google.rpc.ErrorInfo.reason, under the domain "segue"."""


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


class NotExact(RequestError):  # noqa: N818
    """A state that this host would continue with other roundings."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "NOT_EXACT"


class UnknownSession(RequestError):  # noqa: N818
    """A session that was never opened, was closed, or has expired."""

    status = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_SESSION"


class ForeignSession(RequestError):  # noqa: N818
    """A session of another model of the same name, or of another key."""

    status = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FOREIGN_SESSION"


class SessionExists(RequestError):  # noqa: N818
    """A name that a session has already."""

    status = grpc.StatusCode.ALREADY_EXISTS
    reason = "SESSION_EXISTS"


class SessionMoved(RequestError):  # noqa: N818
    """A session that stands elsewhere than the call assumed."""

    status = grpc.StatusCode.ABORTED
    reason = "SESSION_MOVED"


class NotRewindable(RequestError):  # noqa: N818
    """Further back than a session remembers."""

    status = grpc.StatusCode.OUT_OF_RANGE
    reason = "NOT_REWINDABLE"


class StoreFull(RequestError):  # noqa: N818
    """No room for another session, or for a longer one. Nothing was changed."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "STORE_FULL"


class StoreUnavailable(RequestError):  # noqa: N818
    """The sessions' store does not answer. What was to be changed may have been changed, or not."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__(
            "the sessions cannot be reached; repeat the call: with a request_key, or a position, it is not done twice"
        )


class Overloaded(RequestError):  # noqa: N818
    """No place for another sequence."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"


class Stalled(RequestError):  # noqa: N818
    """The client stopped reading its stream, or never began to write it."""

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
