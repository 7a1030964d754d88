"""What clients do wrong: the server goes on serving, and its log gets one line, without traceback or their bytes."""

import re
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_http2 import (
    GREETING,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    call,
    connection,
    frame,
    received,
    reset_on_close,
)
from segue.v1 import generation_pb2, generation_pb2_grpc
from segue_server.api.listener.undecodable_paths import answer_undecodable_paths

GENERATE = b"/segue.v1.GenerationService/Generate"
CHECK = b"/grpc.health.v1.Health/Check"
ASKED = generation_pb2.GenerateRequest(prompt="The", max_characters=5)
NO_WINDOW = PREFACE + frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0")  # SETTINGS_INITIAL_WINDOW_SIZE = 0


def serves(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        written = "".join(
            part.text.text for part in generation_pb2_grpc.GenerationServiceStub(channel).Generate(ASKED, timeout=30)
        )
    return health.status == health_pb2.HealthCheckResponse.SERVING and len(written) == 5


def logged(server, text: str) -> str:
    """The server's log, as soon as it has `text`."""
    deadline = time.monotonic() + 30
    while text not in (log := server.log.read_text()):
        assert time.monotonic() < deadline, log
        time.sleep(0.05)
    return log


def open_files(server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@pytest.mark.parametrize("path", [b"/\xff\xfe", b"/segue.v1.GenerationService/\xc3(", b"/\xf0\x28\x8c\x28/x"])
def test_a_method_whose_name_is_not_utf8_does_not_end_the_server(server, path: bytes) -> None:
    with connection(server.address, GREETING + call(path, b"")) as opened:
        assert HEADERS in received(opened, until=HEADERS)  # the status
    assert serves(server.address)


def test_python_itself_still_refuses_undecodable_bytes() -> None:
    answer_undecodable_paths()
    for encoding in ("utf-8", "ascii"):
        with pytest.raises(UnicodeDecodeError):
            b"\xff".decode(encoding)
    with pytest.raises(UnicodeEncodeError):
        "\ud800".encode()


def test_broken_calls_leave_one_line(start_server) -> None:
    with start_server() as server:
        for _ in range(40):  # the reply cannot be sent, then the client gives up
            asked = call(GENERATE, ASKED.SerializeToString())
            with connection(server.address, NO_WINDOW + asked) as opened:
                assert HEADERS in received(opened, until=HEADERS)
                opened.sendall(frame(RST_STREAM, 0, 1, b"\0\0\0\x08"))
        log = logged(server, "a client left in the midst of a call")
        assert len(re.findall("a client left in the midst of a call", log)) <= 2
        assert serves(server.address)


def test_messages_that_health_cannot_read_leave_one_line(start_server) -> None:
    with start_server() as server:
        calls = b"".join(call(CHECK, b"abc", stream) for stream in range(1, 100, 2))
        for _ in range(10):
            with connection(server.address, GREETING + calls) as opened:
                assert HEADERS in received(opened, until=HEADERS)
        log = logged(server, "a client sent what is no message of its method")
        assert "DecodeError" not in log
        assert log.count("\n") < 20
        assert serves(server.address)


def test_metadata_that_is_not_utf8_is_not_written_to_the_log(start_server) -> None:
    with start_server() as server:
        asked = call(GENERATE, ASKED.SerializeToString(), 1, (b"x-name", b"secret\xff"))
        with connection(server.address, GREETING + asked) as opened:
            assert HEADERS in received(opened, until=HEADERS)
        assert "secret" not in logged(server, "a client sent metadata that is not UTF-8")
        assert serves(server.address)


def test_clients_that_die_at_once_leave_nothing_open(start_server) -> None:
    with start_server() as server:
        assert serves(server.address)
        before = open_files(server)
        for _ in range(200):
            with connection(server.address, GREETING + call(GENERATE, ASKED.SerializeToString())) as opened:
                reset_on_close(opened)
        deadline = time.monotonic() + 30
        while open_files(server) > before:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert serves(server.address)
