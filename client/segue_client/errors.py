"""What can go wrong between a client and a server; each message is one line for the person who can fix it.

SegueError
|-- InvalidRequest       INVALID_ARGUMENT: a field out of range, an unusable ticket, a refused character
|   `-- NotRewindable    OUT_OF_RANGE: further back than possible; `rewindable_count` says how far is
|-- ModelNotFound        NOT_FOUND: no such model is loaded
|-- SessionNotFound      NOT_FOUND: the session was never opened, was closed, or has expired
|-- SessionExists        ALREADY_EXISTS: the name is taken
|-- SessionMoved         ABORTED: the session is not at the position that the caller expected
|-- NotExact             FAILED_PRECONDITION: this host would round differently; `exact=False` allows it
|-- ForeignSession       FAILED_PRECONDITION: the session belongs to another model of this name, or another key
|-- ServerBusy           RESOURCE_EXHAUSTED: the server is full; `retry_after` says when to try again
|-- ServerUnavailable    UNAVAILABLE: no answer, the server is stopping, or the connection broke
|-- DeadlineExceeded     DEADLINE_EXCEEDED: the timeout passed first
|-- Cancelled            CANCELLED: one side cancelled the call
`-- ServerFault          INTERNAL, UNKNOWN and any other status, or a reply that breaks the contract
"""

# ruff: noqa: N818 - each class is named after what happened; the base carries the suffix

from collections.abc import Iterator, Mapping
from copy import copy
from typing import ClassVar, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from segue_client.keywords import in_keywords

DOMAIN: Final = "segue"
"""The domain of the reasons that a segue server gives."""


class SegueError(Exception):
    """The base of everything that the client raises on purpose.

    `reason` is the server's machine-readable reason, such as "INVALID_TICKET"; "" if it gave none.
    """

    exit_code: ClassVar[int] = 1
    """The exit status of a command that ends with this error: 2 for bad input, otherwise 1."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class InvalidRequest(SegueError):
    """The request is invalid; the message names the field, its value and the range."""

    exit_code = 2


class NotRewindable(InvalidRequest):
    """Further back than possible. `rewindable_count` is how far is, None if only the message says."""

    def __init__(self, message: str, *, reason: str = "", rewindable_count: int | None = None) -> None:
        super().__init__(message, reason=reason)
        self.rewindable_count = rewindable_count


class ModelNotFound(SegueError):
    """No such model is loaded; the message lists the loaded ones."""

    exit_code = 2


class SessionNotFound(SegueError):
    """The session was never opened, was closed, or has expired."""

    exit_code = 2


class SessionExists(SegueError):
    """A session of this name exists."""

    exit_code = 2


class SessionMoved(SegueError):
    """The session is not at the expected position: someone else has used it. The message says where it is."""


class NotExact(SegueError):
    """The result would not be bit for bit that of the host that made the state.

    The state is from another build of the model or another class of host, which `exact=False` allows.
    """


class ForeignSession(SegueError):
    """The session belongs to another model of the same name, or was sealed with another key."""

    exit_code = 2


class ServerBusy(SegueError):
    """The server is full. `retry_after` is its advice in seconds, None if it gave none."""

    def __init__(self, message: str, *, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class ServerUnavailable(SegueError):
    """No server answers at the address, or it is stopping, or the connection to it broke.

    `was_reached` is false only in the first case. `cause` is what gRPC says of it, such as "Connection refused"; or ""
    """

    def __init__(self, message: str, *, reason: str = "", was_reached: bool = False, cause: str = "") -> None:
        super().__init__(message, reason=reason)
        self.was_reached = was_reached
        self.cause = cause


class DeadlineExceeded(SegueError):
    """The call took longer than its timeout."""


class Cancelled(SegueError):
    """The call was cancelled before its end."""


class ServerFault(SegueError):
    """The server failed, or broke the contract."""


START_ONE: Final = "start one with: segue serve MODELS_FOLDER"
"""The remedy where no server answers."""

STOPPING: Final = "STOPPING"
"""The reason given by a server that is stopping."""

_Error = TypeVar("_Error", bound=SegueError)


def reworded(error: _Error, message: str) -> _Error:
    """Return the same error with another message."""
    changed = copy(error)
    changed.args, changed.__cause__ = (message,), error.__cause__
    return changed


_KINDS: Final[Mapping[grpc.StatusCode, type[SegueError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}
"""RESOURCE_EXHAUSTED and UNAVAILABLE are handled in `translate`; every other status is a ServerFault."""

_KINDS_BY_REASON: Final[Mapping[str, type[SegueError]]] = {
    "UNKNOWN_SESSION": SessionNotFound,
    "SESSION_EXISTS": SessionExists,
    "SESSION_MOVED": SessionMoved,
    "NOT_REWINDABLE": NotRewindable,
    "NOT_EXACT": NotExact,
    "FOREIGN_SESSION": ForeignSession,
}
"""Reasons that say more than the status; their messages are for the caller."""

_WRITTEN_TOO_LATE: Final = "Internal error from Core"

_BROKEN: Final = (
    *("Stream removed", "Socket closed", "GOAWAY", "Cancelling all calls"),
    _WRITTEN_TOO_LATE,  # grpc.aio, on writing to a call that has just ended
    *("with status: 50", "no replica"),  # a proxy that lost its server: by default, and set up as in docs/resume.md
)
"""Parts of messages about an established connection that broke."""


def translate(error: grpc.RpcError, target: str, detour: str = "") -> SegueError:
    """Return the exception for `error`, with which a call to the address `target` ended.

    `detour`: what to add if the address was not reached, because the way there leads through a proxy.
    """
    code, details = error.code(), in_keywords(error.details() or "")
    status = _rich_status(error)
    reason = _reason(status)
    if reason in _KINDS_BY_REASON:
        return _KINDS_BY_REASON[reason](details, reason=reason)
    if code is grpc.StatusCode.UNAVAILABLE or _is_broken(code, details):
        was_reached = reason == STOPPING or any(clause in details for clause in _BROKEN)
        cause = details if reason else _cause(details, "" if was_reached else detour)
        message = _unavailable(cause, target, reason)
        return ServerUnavailable(message, reason=reason, was_reached=was_reached, cause=cause)
    if code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _KINDS.get(code, ServerFault)(_message(code, details, target), reason=reason)
    if "larger than max" in details:  # gRPC refused the size: waiting, as for a full server, never helps
        remedy = "send less at once"
        if not details.startswith("SERVER: "):  # this client's own limit
            remedy = "send or ask for less at once, or raise max_message_bytes"
        return InvalidRequest(f"{details}; {remedy}", reason=reason)
    return ServerBusy(details, reason=reason, retry_after=_retry_after(status))


def _is_broken(code: grpc.StatusCode, details: str) -> bool:
    """Whether the call was ended by a proxy that lost its server, or that answers with an HTML page."""
    if code is grpc.StatusCode.INTERNAL:
        return "RST_STREAM" in details or details == _WRITTEN_TOO_LATE
    return code is grpc.StatusCode.UNKNOWN and details.startswith("Stream removed")


def _message(code: grpc.StatusCode, details: str, target: str) -> str:
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.NOT_FOUND:
            return details
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the server at {target} did not finish in time"
        case grpc.StatusCode.CANCELLED:
            return "the call was cancelled"
        case _:
            return f"the server at {target} failed: {code.name}: {details}"


def _cause(details: str, detour: str) -> str:
    """Return the last clause of gRPC's nested details, such as "Connection refused"."""
    return (details.rsplit(": ", 1)[-1] or "no connection") + (f"; {detour}" if detour else "")


def _unavailable(cause: str, target: str, reason: str) -> str:
    """Keep a server's own words."""
    if reason:
        return f"the server at {target} cannot answer: {cause}"
    return f"no server is available at {target} ({cause}); {START_ONE}"


def _rich_status(error: grpc.RpcError) -> status_pb2.Status:
    """Return the machine-readable details of `error`; an empty status if they are missing or damaged."""
    try:
        return rpc_status.from_call(error) or status_pb2.Status()
    except (ValueError, DecodeError):
        return status_pb2.Status()


def _reason(status: status_pb2.Status) -> str:
    infos = _details(status, error_details_pb2.ErrorInfo)
    return next((info.reason for info in infos if info.domain == DOMAIN), "")


def _retry_after(status: status_pb2.Status) -> float | None:
    infos = _details(status, error_details_pb2.RetryInfo)
    return next((info.retry_delay.ToTimedelta().total_seconds() for info in infos), None)


_Detail = TypeVar("_Detail", bound=Message)


def _details(status: status_pb2.Status, kind: type[_Detail]) -> Iterator[_Detail]:
    """Yield the details of one kind; skip those that do not parse."""
    for packed in status.details:
        detail = kind()
        try:
            if packed.Unpack(detail):
                yield detail
        except DecodeError:
            continue
