"""Connections: as many as the files of the process allow, none for ever, and a way in for health."""

import asyncio
import re
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_http2 import GOAWAY, GREETING, PING, PREFACE, SETTINGS, connection, frame, received
from segue.v1 import model_pb2, model_pb2_grpc
from segue_server.api.listener.channel_options import STREAMS_PER_CONNECTION
from segue_server.api.listener.connections import (
    DEFAULT_CONNECTIONS,
    RESERVED_FILES,
    ConnectionLimits,
    connection_options,
    limits_for,
)
from segue_server.errors import StartupError

ALLOWED = 40
FEW_FILES = ("sh", "-c", f'ulimit -n {RESERVED_FILES + ALLOWED}; exec "$@"', "sh")
PATIENCE = 60


def check(address: str) -> object:
    """The status that health answers with, or the error's."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status
        except grpc.RpcError as error:
            return error.code()


def ended(opened: list[socket.socket]) -> int:
    """How many of the connections the server has closed."""
    return sum(_ended(each) for each in opened)


def _ended(opened: socket.socket) -> bool:
    opened.setblocking(False)
    try:
        while opened.recv(1000):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def test_connections_beyond_the_limit_end_at_once_and_health_keeps_a_way_in(start_server) -> None:
    with start_server("--metrics-port", "0", under=FEW_FILES) as server, ExitStack() as stack:
        log = server.log.read_text()
        assert f"at most {ALLOWED} connections" in log
        (http,) = re.findall(r"metrics: (http://\S+)/metrics", log)
        opened = [stack.enter_context(connection(server.address, GREETING)) for _ in range(5 * ALLOWED)]
        deadline = time.monotonic() + PATIENCE
        while (gone := ended(opened)) < 4 * ALLOWED:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert gone == 4 * ALLOWED
        assert check(server.address) is grpc.StatusCode.UNAVAILABLE
        with urllib.request.urlopen(f"{http}/health", timeout=PATIENCE) as reply:
            assert reply.status == 200
        command = [sys.executable, "-m", "segue_server.health_check", f"{http}/health"]
        assert subprocess.run(command, timeout=PATIENCE, check=False).returncode == 0
        stack.close()
        while check(server.address) != health_pb2.HealthCheckResponse.SERVING:
            assert time.monotonic() < deadline + PATIENCE


def test_silent_connections_count_too_and_end(start_server) -> None:
    with start_server(under=FEW_FILES) as server, ExitStack() as stack:
        opened = [stack.enter_context(connection(server.address)) for _ in range(3 * ALLOWED)]
        files = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        assert files < RESERVED_FILES + ALLOWED
        deadline = time.monotonic() + PATIENCE
        while ended(opened) < 3 * ALLOWED:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert check(server.address) == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def bare_server():
    """A function that starts a gRPC server with the options of the product, of which some are changed."""
    with ExitStack() as stack:

        def start(**changed: int) -> str:
            options = dict(connection_options(ConnectionLimits(100)))
            assert set(changed) <= {name.rpartition(".")[2] for name in options}
            options |= {name: changed.get(name.rpartition(".")[2], value) for name, value in options.items()}
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", SERVER, repr(list(options.items()))], stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            return f"127.0.0.1:{int(process.stdout.readline())}"

        yield start


SERVER = """
import ast, sys, time
from concurrent import futures
import grpc
from grpc_health.v1 import health, health_pb2_grpc
server = grpc.server(futures.ThreadPoolExecutor(4), options=ast.literal_eval(sys.argv[1]))
health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""


@pytest.mark.parametrize("sent", [b"", PREFACE[:10], PREFACE])
def test_a_connection_that_does_not_greet_ends(bare_server, sent: bytes) -> None:
    with connection(bare_server(server_handshake_timeout_ms=500), sent) as opened:
        assert GOAWAY in received(opened)


def test_a_connection_that_ignores_our_settings_ends(bare_server) -> None:
    with connection(bare_server(settings_timeout=500), PREFACE + frame(SETTINGS, 0, 0)) as opened:
        assert GOAWAY in received(opened)


def test_a_connection_without_a_call_ends(bare_server) -> None:
    with connection(bare_server(max_connection_idle_ms=500), GREETING) as opened:
        assert GOAWAY in received(opened)


def test_a_connection_that_pings_and_pings_ends(bare_server) -> None:
    with connection(bare_server(), GREETING + 10 * frame(PING, 0, 0, b"12345678")) as opened:
        assert GOAWAY in received(opened)


def test_the_options_are_those_that_grpc_knows() -> None:
    """A misspelt option has no effect and no error: each must stand in gRPC's library."""
    library = Path(grpc.__file__).parent / "_cython"
    (binary,) = library.glob("cygrpc*.so")
    content = binary.read_bytes()
    known = {name for name, _ in connection_options(ConnectionLimits(10)) if name.encode() in content}
    unseen = {name for name, _ in connection_options(ConnectionLimits(10))} - known
    assert unseen <= {"grpc.http2.min_ping_interval_without_data_ms"}  # compiled into the code, not a string of its own


def in_a_process_with(files: str, expression: str) -> str:
    """What `expression` of segue_server.api.listener.connections is where `ulimit` was called with `files`."""
    code = f"from segue_server.api.listener.connections import *; import resource; print({expression})"
    command = ["sh", "-c", f'{files}; exec "$@"', "sh", sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.strip()


def test_the_soft_limit_of_files_is_raised_as_far_as_needed() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 600
    if hard != resource.RLIM_INFINITY and hard < wanted + RESERVED_FILES:
        pytest.skip("this process may open too few files")
    seen = in_a_process_with(
        "ulimit -Sn 100",
        f"(limits_for('127.0.0.1', {wanted}).connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0])",
    )
    assert seen == str((wanted, wanted + RESERVED_FILES))


def test_fewer_files_mean_fewer_connections_unless_they_were_asked_for() -> None:
    files = f"ulimit -n {RESERVED_FILES + 7}"
    assert in_a_process_with(files, "limits_for('127.0.0.1').connections") == "7"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        in_a_process_with(files, "limits_for('127.0.0.1', 8)")
    assert f"{RESERVED_FILES + 7} open files are allowed" in failed.value.stderr
    with pytest.raises(subprocess.CalledProcessError) as failed:
        in_a_process_with(f"ulimit -n {RESERVED_FILES}", "limits_for('127.0.0.1')")
    assert StartupError.__name__ in failed.value.stderr
    assert f"allow {DEFAULT_CONNECTIONS + RESERVED_FILES}" in failed.value.stderr


def test_listeners_share_the_connections() -> None:
    options = dict(connection_options(ConnectionLimits(100, listeners=2)))
    assert options["grpc.max_allowed_incoming_connections"] == 50
    assert limits_for("127.0.0.1", 10).listeners == 1
    assert limits_for("0.0.0.0", 10).listeners == 1


async def test_more_calls_than_a_connection_may_have_wait_and_succeed(server_address: str) -> None:
    """And new ones that take the place of others at once, before the server has forgotten these."""
    async with grpc.aio.insecure_channel(server_address) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)

        async def call_again_and_again() -> list[int]:
            return [len((await stub.ListModels(model_pb2.ListModelsRequest())).models) for _ in range(5)]

        found = await asyncio.gather(*(call_again_and_again() for _ in range(2 * STREAMS_PER_CONNECTION)))
    assert found == [[1] * 5] * (2 * STREAMS_PER_CONNECTION)
