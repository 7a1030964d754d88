"""What signals do to a server, at every stage of its life, and how the watchers of its health learn of it."""

import fcntl
import os
import random
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from segue.v1 import generation_pb2 as pb
from segue.v1 import generation_pb2_grpc, session_pb2, session_pb2_grpc

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
MODELS = 40
"""Together they load for many seconds."""


@pytest.fixture(scope="module")
def many_models(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(MODELS):
        shutil.copytree(models_folder / "tiny", folder / f"tiny-{number}")
    return folder


def wait_for(words: str, log: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


@contextmanager
def loading(models: Path, folder: Path, *before: str) -> "Iterator[tuple[subprocess.Popen[str], Path]]":
    """A server that has loaded the first of many models; `before` stands before its command."""
    log = folder / "log"
    command = [*before, sys.executable, "-m", "segue_client", "serve", str(models)]
    command += ["--port", "0", "--device", "cpu", "--state", str(folder / "state")]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        wait_for("INFO model", log, process)
        yield process, log
    finally:
        process.kill()
        process.communicate()


def assert_stopped_while_loading(process: "subprocess.Popen[str]", log: Path, number: signal.Signals) -> None:
    assert process.wait(timeout=60) == 0
    assert process.stdout is not None
    assert not process.stdout.read()
    text = log.read_text()
    assert f"{number.name}: stopped before it was ready" in text
    assert "Traceback" not in text
    assert text.count("INFO model") < MODELS // 2, "it went on loading"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_models_load_ends_the_server_without_a_word_of_ready(
    many_models: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with loading(many_models, tmp_path) as (process, log):
        process.send_signal(number)
        assert_stopped_while_loading(process, log, number)


def serving(models: Path, state: Path, *options: str, **streams: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "segue_client", "serve", str(models), "--port", "0", "--device", "cpu"]
    return subprocess.Popen([*command, "--state", str(state), *options], text=True, **streams)


def seconds_to_ready(models: Path, state: Path) -> float:
    began = time.monotonic()
    with serving(models, state, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        process.kill()
    return time.monotonic() - began


def test_a_signal_at_any_moment_of_the_start_stops_the_server_and_nothing_is_announced_after_it(
    models_folder: Path, tmp_path: Path
) -> None:
    whole, moments = seconds_to_ready(models_folder, tmp_path), random.Random(1)
    for attempt in range(16):
        number, told, log = moments.choice([signal.SIGTERM, signal.SIGINT]), tmp_path / "told", tmp_path / "log"
        with told.open("w") as output, log.open("w") as errors:
            process = serving(models_folder, tmp_path, stdout=output, stderr=errors)
        # Before that, Python itself starts: it dies of SIGTERM and SIGINT, as any program does.
        time.sleep(0.2 * whole + moments.uniform(0, whole))
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        announced = told.read_text()
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            assert process.wait(timeout=30) == 0, (attempt, log.read_text())
        finally:
            process.kill()
        assert told.read_text() == announced, (attempt, log.read_text())
        assert re.search(f"{number.name}: stopped before it was ready|stopping on {number.name}", log.read_text())
        assert "Traceback" not in log.read_text()


CLOSED = {"input": "<&-", "output": ">&-", "errors": "2>&-", "all": "<&- >&- 2>&-"}


@pytest.mark.parametrize("closed", CLOSED.values(), ids=CLOSED)
def test_closed_standard_streams_leave_the_server_serving_and_its_files_whole(
    models_folder: Path, tmp_path: Path, closed: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--device", "cpu", "--state", str(tmp_path / "state")]
    command = shlex.join([sys.executable, "-m", "segue_client", "serve", str(models_folder), *options])
    with (
        subprocess.Popen(
            ["sh", "-c", f"exec {command} {closed}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        try:
            grpc.channel_ready_future(channel).result(timeout=60)
            opened = {number: str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in range(3)}
            for number in ("<", ">", "2>"):
                if f"{number}&-" in closed.split():
                    assert opened["<>2".index(number[0])] == os.devnull
            request = session_pb2.OpenSessionRequest(name="kept")
            session_pb2_grpc.SessionServiceStub(channel).OpenSession(request)
            process.terminate()
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert output == ("" if ">&-" in closed.split() else f"ready: 127.0.0.1:{port}\n")
    with closing(sqlite3.connect(tmp_path / "state" / "sessions.sqlite")) as store:
        assert store.execute("pragma integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("output", ["/dev/full", "a pipe that nobody reads"])
def test_a_ready_line_that_cannot_be_written_is_logged(models_folder: Path, tmp_path: Path, output: str) -> None:
    reading, writing = (None, os.open(output, os.O_WRONLY)) if output.startswith("/") else os.pipe()
    if reading is not None:
        os.close(reading)
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = serving(models_folder, tmp_path, stdout=writing, stderr=errors)
    os.close(writing)
    try:
        wait_for("could not be written to standard output", log, process)
        address = re.search(r"'ready: (\S+)'", log.read_text())
        assert address
        with grpc.insecure_channel(address[1]) as channel:
            assert next(watch(channel)).status == SERVING
        process.terminate()
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")


def test_process_1_is_stopped_while_it_loads_too(many_models: Path, tmp_path: Path) -> None:
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this host lets nobody make a PID namespace")
    with loading(many_models, tmp_path, *UNSHARE) as (process, log):
        (server,) = children(process.pid)
        assert Path(f"/proc/{server}/status").read_text().split("NSpid:")[1].splitlines()[0].split()[-1] == "1"
        os.kill(server, signal.SIGTERM)
        assert_stopped_while_loading(process, log, signal.SIGTERM)


def endless(channel: grpc.Channel) -> Iterator[pb.GenerateResponse]:
    asked = pb.GenerateRequest(prompt="The", max_characters=1_000_000)
    return generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked)


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)],
)
def test_a_second_signal_ends_the_drain_at_once_as_the_log_said(
    start_server, first: signal.Signals, second: signal.Signals
) -> None:
    with start_server("--drain-grace", "600") as server, grpc.insecure_channel(server.address) as channel:
        stream = endless(channel)
        next(stream)
        server.process.send_signal(first)
        wait_for(f"stopping on {first.name}", server.log, server.process)
        assert "another signal ends them at once" in server.log.read_text()
        time.sleep(0.5)
        assert next(stream).text.text, "the first signal lets streams go on"
        server.process.send_signal(second)
        assert server.process.wait(timeout=60) == 128 + second
        assert f"{second.name} after {first.name}: ended at once" in server.log.read_text()


ASKED = """
import asyncio, itertools, os, signal, sys
from segue_server.stop_signals import StopSignals
signals = StopSignals(clock=itertools.count(step=float(sys.argv[1])).__next__)
signals.handle()
async def serve():
    signals.drain_when_asked()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    await signals.asked()
    print(signals.asked_by.name)
asyncio.run(serve())
"""


@pytest.mark.parametrize(("seconds", "status", "output"), [(0.1, 0, "SIGTERM\n"), (0.3, 143, "")])
def test_a_signal_sent_twice_at_once_is_one_request(seconds: float, status: int, output: str) -> None:
    done = subprocess.run([sys.executable, "-c", ASKED, str(seconds)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, output)


def test_a_blocked_event_loop_does_not_keep_the_second_signal_waiting() -> None:
    blocked = ASKED.replace("    await signals.asked()", "    while True: pass")
    done = subprocess.run([sys.executable, "-c", blocked, "0.3"], capture_output=True, check=False, timeout=60)
    assert done.returncode == 143


def read_first_text(stream: Iterator[pb.GenerateResponse]) -> None:
    assert any(response.text.text for response in stream)


def test_a_hangup_drains(start_server) -> None:
    with start_server("--drain-grace", "0") as server, grpc.insecure_channel(server.address) as channel:
        stream = endless(channel)
        read_first_text(stream)
        server.process.send_signal(signal.SIGHUP)
        *_, last = stream
        assert last.finished.reason == pb.FINISH_REASON_DRAINED
        assert last.finished.ticket
        assert server.process.wait(timeout=60) == 0
        assert "stopping on SIGHUP" in server.log.read_text()


def test_nohup_keeps_a_server_through_a_hangup(start_server) -> None:
    with start_server(under=("nohup",)) as server, grpc.insecure_channel(server.address) as channel:
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert next(watch(channel)).status == SERVING
        assert server.terminate() == 0


def test_closing_the_terminal_drains(models_folder: Path, tmp_path: Path) -> None:
    terminal, end = os.openpty()
    command = [sys.executable, "-m", "segue_client", "serve", str(models_folder), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--state", str(tmp_path), "--drain-grace", "0"],
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - it runs no Python code of others
    )
    os.close(end)
    said = b""
    while not (ready := re.search(rb"ready: (\S+)\r\n", said)):
        said += os.read(terminal, 4096)
    with grpc.insecure_channel(ready[1].decode()) as channel:
        stream = endless(channel)
        read_first_text(stream)
        os.close(terminal)
        *_, last = stream
    assert last.finished.reason == pb.FINISH_REASON_DRAINED
    assert last.finished.ticket
    assert process.wait(timeout=60) == 0


def test_a_stop_does_not_wait_for_whoever_reads_standard_error(models_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "segue_client", "serve", str(models_folder), "--port", "0", "--device", "cpu"]
    reading, writing = os.pipe()
    with subprocess.Popen(
        [*command, "--state", str(tmp_path), "--drain-grace", "600"], stdout=subprocess.PIPE, stderr=writing, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        with grpc.insecure_channel(address) as channel:
            next(endless(channel))
            os.set_blocking(writing, False)
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(writing, b"x")
            os.set_blocking(writing, True)
            process.send_signal(signal.SIGTERM)
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 143
    os.close(reading)
    os.close(writing)


def watch(channel: grpc.Channel, service: str = "") -> Iterator[health_pb2.HealthCheckResponse]:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))


def test_watchers_are_told_and_their_calls_end_well(start_server) -> None:
    with start_server() as server, grpc.insecure_channel(server.address) as channel:
        known = [watch(channel) for _ in range(100)]
        unknown = watch(channel, "segue.v1.NoSuchService")
        assert all(next(each).status == SERVING for each in known)
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        server.process.send_signal(signal.SIGTERM)
        for each in known:  # a call that is cut raises an RpcError instead of ending
            assert [response.status for response in each] == [NOT_SERVING]
        assert not list(unknown)
        assert server.process.wait(timeout=60) == 0


def test_a_watch_lasts_as_long_as_the_drain(start_server) -> None:
    with start_server("--drain-grace", "600") as server, grpc.insecure_channel(server.address) as channel:
        stream, early = endless(channel), watch(channel)
        next(stream)
        next(early)
        server.process.send_signal(signal.SIGTERM)
        assert next(early).status == NOT_SERVING
        late = watch(channel)  # else a balancer, which watches anew whenever a watch ends, would do so in a loop
        assert next(late).status == NOT_SERVING
        stream.cancel()
        assert (list(early), list(late)) == ([], [])
        assert server.process.wait(timeout=60) == 0


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def header(name: str, value: str) -> bytes:
    """A header in HPACK: a literal without indexing."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


@contextmanager
def unread_watch(address: str) -> Iterator[None]:
    """A watch whose client allows the server to send no byte of a message."""
    host, port = address.rsplit(":", 1)
    path = header(":path", "/grpc.health.v1.Health/Watch") + header(":authority", address)
    headers = header(":method", "POST") + header(":scheme", "http") + path
    headers += header("content-type", "application/grpc") + header("te", "trailers")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(4, 0, 0, (4).to_bytes(2, "big") + (0).to_bytes(4, "big"))  # SETTINGS: initial window 0
            + frame(1, 4, 1, headers)
            + frame(0, 1, 1, bytes(5))  # an empty request
        )
        received = b""
        while b"\x01\x04\0\0\0\x01" not in received:  # the headers of the reply: the watch has begun
            more = connection.recv(4096)
            assert more, received
            received += more
        yield


def test_a_watcher_that_does_not_read_holds_up_nobody(start_server) -> None:
    with (
        start_server() as server,
        unread_watch(server.address),
        grpc.insecure_channel(server.address) as channel,
    ):
        other = watch(channel)
        assert next(other).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert [response.status for response in other] == [NOT_SERVING]
        assert server.process.wait(timeout=60) == 0


def test_health_is_listed_by_service(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    listed = stub.List(health_pb2.HealthListRequest()).statuses
    assert {"", "segue.v1.GenerationService"} <= set(listed)
    assert {each.status for each in listed.values()} == {SERVING}
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Check(health_pb2.HealthCheckRequest(service="segue.v1.NoSuchService"))
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
