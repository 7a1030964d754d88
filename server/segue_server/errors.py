"""The errors that the server answers with. Each class carries its gRPC status.

RequestError
|-- InvalidRequest    INVALID_ARGUMENT    a field out of range
|-- InvalidTicket     INVALID_ARGUMENT    a ticket that this model cannot continue
|-- NotExact          FAILED_PRECONDITION a state that this host would round differently
|-- UnknownModel      NOT_FOUND           a model that is not loaded
|-- UnknownSession    NOT_FOUND           a session that does not exist
|-- ForeignSession    FAILED_PRECONDITION a session of another model of the same name, or of another key
|-- SessionExists     ALREADY_EXISTS      a name that another session has
|-- SessionMoved      ABORTED             a session that is not where the call assumed
|-- NotRewindable     OUT_OF_RANGE        further back than the session can go
|-- StoreFull         RESOURCE_EXHAUSTED  no room for another session: none is evicted
|-- StoreUnavailable  UNAVAILABLE         the session store does not answer
|   `-- StoreLost     UNAVAILABLE         its file was removed, replaced or cut while the server runs
|-- Overloaded        RESOURCE_EXHAUSTED  no time, place or memory for the call now; says when to retry
|-- Stalled           ABORTED             the client stopped reading its replies, or sending its request
|-- Stopping          UNAVAILABLE         the server is stopping
`-- EngineFailed      INTERNAL            the engine failed; the log says why

StartupError          ends `segue serve` with one line and an exit code
`-- UnfitModel        a version that cannot be served; others may be
"""

from typing import ClassVar

import grpc

from segue_server.limits import RETRY_AFTER_SECONDS


class RequestError(Exception):
    """A request answered with an error status. The text reaches the client: no paths, no internals."""

    status: ClassVar[grpc.StatusCode]
    reason: ClassVar[str]
    """For programs: google.rpc.ErrorInfo.reason, under the domain "segue"."""


class InvalidRequest(RequestError):  # noqa: N818 - the names say what went wrong
    """A field out of range; the text names field, value and range."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"


class InvalidTicket(RequestError):  # noqa: N818
    """A ticket that is damaged, expired or not for this model. The same text for all causes."""

    status = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_TICKET"


class UnknownModel(RequestError):  # noqa: N818
    """A model that is not loaded."""

    status = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_MODEL"


class NotExact(RequestError):  # noqa: N818
    """A state that this host would round differently."""

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
    """A name that another session has."""

    status = grpc.StatusCode.ALREADY_EXISTS
    reason = "SESSION_EXISTS"


class SessionMoved(RequestError):  # noqa: N818
    """A session that is not where the call assumed."""

    status = grpc.StatusCode.ABORTED
    reason = "SESSION_MOVED"


class NotRewindable(RequestError):  # noqa: N818
    """Further back than the session can go."""

    status = grpc.StatusCode.OUT_OF_RANGE
    reason = "NOT_REWINDABLE"


class StoreFull(RequestError):  # noqa: N818
    """No room for another session, or for a longer record. Nothing was changed."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "STORE_FULL"


class StoreUnavailable(RequestError):  # noqa: N818
    """The session store does not answer. A change may or may not have been made."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"

    def __init__(
        self,
        text: str = "the session store does not answer; "
        "repeat the call: with a request_key or a position, it takes effect once",
    ) -> None:
        super().__init__(text)


class StoreLost(StoreUnavailable):
    """The file of the session store was removed, replaced or cut: what is written now would be lost."""

    def __init__(self) -> None:
        super().__init__(
            "the file of the session store was removed, replaced or cut: no session can be used until the server's "
            "operator has put it back or restarted the server (its log says more); tickets can be used"
        )


class Overloaded(RequestError):  # noqa: N818
    """No time, place or memory for another call now."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"

    def __init__(self, message: str, retry_after: float = RETRY_AFTER_SECONDS) -> None:
        """`retry_after`: seconds after which the call may be repeated."""
        super().__init__(message)
        self.retry_after = retry_after


class Stalled(RequestError):  # noqa: N818
    """The client stopped reading its replies, or sending its request."""

    status = grpc.StatusCode.ABORTED
    reason = "STALLED"


class Stopping(RequestError):  # noqa: N818
    """The server is stopping."""

    status = grpc.StatusCode.UNAVAILABLE
    reason = "STOPPING"


class EngineFailed(RequestError):  # noqa: N818
    """The engine failed. The server's log has the details."""

    status = grpc.StatusCode.INTERNAL
    reason = "ENGINE_FAILED"


class StartupError(Exception):
    """The server cannot start; the text names the value at fault and the remedy."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UnfitModel(StartupError):  # noqa: N818 - says what it is
    """A version of a model that cannot be served; others may be."""
