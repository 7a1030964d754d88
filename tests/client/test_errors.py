"""From a gRPC status to the exception that says what it means."""

import pickle
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from segue_client import (
    Cancelled,
    DeadlineExceeded,
    ForeignSession,
    InvalidRequest,
    ModelNotFound,
    NotExact,
    NotRewindable,
    SegueError,
    ServerBusy,
    ServerFault,
    ServerUnavailable,
    SessionExists,
    SessionMoved,
    SessionNotFound,
)
from segue_client.errors import translate

KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerBusy,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}


def rpc_error(code: grpc.StatusCode, details: str, *trailing: tuple[str, bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


def rich_error(script: Any, code: grpc.StatusCode, details: str, *infos: Any) -> grpc.aio.AioRpcError:
    status = rpc_status.to_status(script.rich_status(code, details, *infos))
    return rpc_error(code, details, *status.trailing_metadata)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_has_an_exception(code: grpc.StatusCode) -> None:
    error = translate(rpc_error(code, "why"), "there:1")
    assert type(error) is KINDS.get(code, ServerFault)
    assert isinstance(error, SegueError)
    assert error.exit_code == (2 if isinstance(error, InvalidRequest | ModelNotFound) else 1)
    assert "\n" not in str(error)
    assert error.reason == ""


@pytest.mark.parametrize(
    ("code", "reason", "kind", "exit_code"),
    [
        (grpc.StatusCode.NOT_FOUND, "UNKNOWN_SESSION", SessionNotFound, 2),
        (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS", SessionExists, 2),
        (grpc.StatusCode.ABORTED, "SESSION_MOVED", SessionMoved, 1),
        (grpc.StatusCode.OUT_OF_RANGE, "NOT_REWINDABLE", NotRewindable, 2),
        (grpc.StatusCode.FAILED_PRECONDITION, "NOT_EXACT", NotExact, 1),
        (grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_SESSION", ForeignSession, 2),
    ],
)
def test_a_reason_says_more_than_its_status(
    script: Any, code: grpc.StatusCode, reason: str, kind: type[SegueError], exit_code: int
) -> None:
    info = error_details_pb2.ErrorInfo(reason=reason, domain="segue")
    error = translate(rich_error(script, code, "do this", info), "there:1")
    assert type(error) is kind
    assert (str(error), error.reason, error.exit_code) == ("do this", reason, exit_code)
    foreign = error_details_pb2.ErrorInfo(reason=reason, domain="elsewhere")
    assert type(translate(rich_error(script, code, "do this", foreign), "there:1")) is not kind


@pytest.mark.parametrize(
    ("code", "details", "was_reached"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: Connection refused", False),
        (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)", True),
        (grpc.StatusCode.UNAVAILABLE, "Cancelling all calls", True),
        (grpc.StatusCode.UNAVAILABLE, "Received http2 header with status: 502", True),
        (grpc.StatusCode.INTERNAL, "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))", True),
    ],
)
def test_a_broken_connection_is_distinguished_from_none(code: grpc.StatusCode, details: str, was_reached: bool) -> None:
    error = translate(rpc_error(code, details), "there:1")
    assert isinstance(error, ServerUnavailable)
    assert error.was_reached == was_reached


def test_a_server_that_stops_is_quoted(script: Any) -> None:
    info = error_details_pb2.ErrorInfo(reason="STOPPING", domain="segue")
    error = translate(rich_error(script, grpc.StatusCode.UNAVAILABLE, "the server is stopping", info), "there:1")
    assert isinstance(error, ServerUnavailable)
    assert error.was_reached
    assert str(error) == "the server at there:1 cannot answer: the server is stopping"


def test_the_reason_is_read_from_segues_own_domain(script: Any) -> None:
    infos = [
        error_details_pb2.ErrorInfo(reason="FOREIGN", domain="elsewhere"),
        error_details_pb2.ErrorInfo(reason="INVALID_TICKET", domain="segue"),
    ]
    error = translate(rich_error(script, grpc.StatusCode.INVALID_ARGUMENT, "no", *infos), "there:1")
    assert error.reason == "INVALID_TICKET"
    assert str(error) == "no"


@pytest.mark.parametrize("seconds", [0.0, 0.25, 3.0])
def test_the_time_to_wait_is_read_in_seconds(script: Any, seconds: float) -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromNanoseconds(int(seconds * 1e9))
    error = translate(rich_error(script, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry), "there:1")
    assert isinstance(error, ServerBusy)
    assert error.retry_after == seconds


def test_a_busy_server_may_give_no_time() -> None:
    error = translate(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "full"), "there:1")
    assert isinstance(error, ServerBusy)
    assert error.retry_after is None


@pytest.mark.parametrize("damaged", [b"\xff", b"\x08\x05", b""])
def test_damaged_details_do_not_hide_the_status(damaged: bytes) -> None:
    error = rpc_error(grpc.StatusCode.NOT_FOUND, "gone", ("grpc-status-details-bin", damaged))
    assert isinstance(translate(error, "there:1"), ModelNotFound)


def test_a_damaged_detail_does_not_hide_the_others(script: Any) -> None:
    status = script.rich_status(
        grpc.StatusCode.NOT_FOUND,
        "gone",
        error_details_pb2.ErrorInfo(),
        error_details_pb2.ErrorInfo(reason="UNKNOWN_MODEL", domain="segue"),
    )
    status.details[0].value = b"\xff"
    error = rpc_error(grpc.StatusCode.NOT_FOUND, "gone", *rpc_status.to_status(status).trailing_metadata)
    assert translate(error, "there:1").reason == "UNKNOWN_MODEL"


@pytest.mark.parametrize(
    ("details", "remedy"),
    [
        ("CLIENT: Sent message larger than max (5 vs. 4)", "send or ask for less at once, or raise max_message_bytes"),
        (
            "CLIENT: Received message larger than max (5 vs. 4)",
            "send or ask for less at once, or raise max_message_bytes",
        ),
        ("SERVER: Received message larger than max (5 vs. 4)", "send less at once"),
    ],
)
def test_an_oversized_message_is_not_a_full_server(details: str, remedy: str) -> None:
    error = translate(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, details), "there:1")
    assert isinstance(error, InvalidRequest)
    assert str(error) == f"{details}; {remedy}"


def test_an_unreachable_server_is_named_with_the_remedy() -> None:
    details = "failed to connect to all addresses; last error: UNKNOWN: ipv4:1: Connection refused (111)"
    error = translate(rpc_error(grpc.StatusCode.UNAVAILABLE, details), "there:1")
    assert str(error) == (
        "no server is available at there:1 (Connection refused (111)); start one with: segue serve MODELS_FOLDER"
    )


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ServerBusy("full", reason="R", retry_after=1.5)))
    assert (str(error), error.reason, error.retry_after) == ("full", "R", 1.5)
