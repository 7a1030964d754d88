"""The port of metrics and health: a few places, whoever takes them, and a quick client always gets through."""

import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from segue_server.telemetry.http_message import MAX_HEAD_BYTES
from segue_server.telemetry.http_port import CONNECTION_SECONDS, PLACES

PATIENCE = 30
HALF = b"GET /metrics HTTP/1.1\r\nHost: te"


@pytest.fixture(scope="module")
def served(start_server) -> Iterator[tuple[object, str]]:
    """A server, and HOST:PORT of its metrics."""
    with start_server("--metrics-port", "0") as server:
        yield server, metrics_address(server)


def metrics_address(server) -> str:
    found = re.search(r"metrics: http://(\S+)/metrics\n", server.log.read_text())
    assert found
    return found[1]


@contextmanager
def connection(address: str, sent: bytes = b"", source: str = "127.0.0.1") -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE, source_address=(source, 0)) as opened:
        opened.sendall(sent)
        yield opened


def ask(address: str, request: bytes) -> bytes:
    """What comes back until the server ends the connection."""
    with connection(address, request) as opened:
        opened.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: opened.recv(65536), b""))


def page(address: str, path: str, **headers: str) -> tuple[int, str, str]:
    """The status, format and text of a page."""
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.headers["Content-Type"], refusal.read().decode()


def count(server, what: str) -> int:
    """How many threads (`task`) or files (`fd`) the server has."""
    return len(list(Path(f"/proc/{server.process.pid}/{what}").iterdir()))


def ended(opened: socket.socket) -> bool:
    try:
        return opened.recv(1) == b""
    except ConnectionResetError:
        return True


def test_half_sent_requests_take_no_threads_and_few_files_and_a_scrape_gets_through(served) -> None:
    server, address = served
    page(address, "/metrics")
    threads, files = count(server, "task"), count(server, "fd")
    with ExitStack() as stack:
        for _ in range(400):
            stack.enter_context(connection(address, HALF))
        assert page(address, "/metrics")[0] == 200
        assert page(address, "/health")[0] == 200
        assert count(server, "task") <= threads
        assert count(server, "fd") <= files + PLACES + 4  # files of its own that come and go


def test_a_half_sent_request_ends_by_itself(served) -> None:
    _, address = served
    started = time.monotonic()
    with connection(address, HALF) as opened:
        reply = b"".join(iter(lambda: opened.recv(65536), b""))
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started > CONNECTION_SECONDS / 2


def test_a_client_that_reads_nothing_ends_too(served) -> None:
    server, address = served
    files = count(server, "fd")
    with ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(connection(address, b"GET /metrics HTTP/1.1\r\n\r\n"))
        deadline = time.monotonic() + CONNECTION_SECONDS + PATIENCE
        while count(server, "fd") > files:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_clients_that_ask_and_vanish_do_not_end_the_port(served) -> None:
    _, address = served
    for _ in range(300):
        with connection(address, b"GET /metrics HTTP/1.1\r\n\r\n") as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset
    assert page(address, "/metrics")[0] == 200


def test_one_address_cannot_end_the_connections_of_another(served) -> None:
    _, address = served
    with ExitStack() as stack, connection(address, HALF, source="127.0.0.2") as slow:
        for _ in range(3 * PLACES):
            stack.enter_context(connection(address, HALF))
        slow.sendall(b"st\r\n\r\n")
        assert slow.recv(100).startswith(b"HTTP/1.1 200 ")


def test_the_oldest_of_an_address_ends_first(served) -> None:
    _, address = served
    with ExitStack() as stack:
        opened = [stack.enter_context(connection(address, HALF)) for _ in range(PLACES)]
        stack.enter_context(connection(address, HALF))
        assert ended(opened[0])
        opened[-1].sendall(b"st\r\n\r\n")
        assert opened[-1].recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/../keys HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nCookie: " + b"a" * MAX_HEAD_BYTES, 431),
        (b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /metrics?format=text HTTP/1.0\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n\r\n", 200),
    ],
)
def test_each_request_gets_its_status_once(served, request_bytes: bytes, status: int) -> None:
    reply = ask(served[1], request_bytes)
    assert reply.startswith(f"HTTP/1.1 {status} ".encode())
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in reply
    assert (b"\r\nAllow: GET, HEAD\r\n" in reply) is (status == 405)


def test_head_is_get_without_the_body(served) -> None:
    head, body = (ask(served[1], f"{method} /health HTTP/1.1\r\n\r\n".encode()) for method in ("HEAD", "GET"))
    assert body == head + b"serving\n"


def test_the_client_chooses_the_format(served) -> None:
    _, address = served
    _, text_type, text = page(address, "/metrics", Accept="text/plain")
    assert text_type.startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"segue_live_sequences", "segue_event_loop_lag_seconds", "process_open_fds"} <= names
    wanted = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3"
    _, open_type, open_text = page(address, "/metrics", Accept=wanted)
    assert open_type.startswith("application/openmetrics-text")
    created = {name for name in names if name.endswith("_created")}  # part of their metric in this format
    assert {family.name for family in parse_openmetrics(open_text)} == names - created
    for odd in ("application/openmetrics-text;version=zzz", "\xff", "text/plain;version=9.9.9"):
        assert page(address, "/metrics", Accept=odd)[0] == 200


def test_pages_are_made_a_few_times_a_second_however_many_ask(served) -> None:
    server, address = served

    def cpu_ticks() -> int:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    assert page(address, "/metrics")[0] == 200
    used, started, answered = cpu_ticks(), time.monotonic(), 0
    while time.monotonic() < started + 2:
        answered += page(address, "/metrics")[0] == 200
    assert 0 < answered <= 2 * 20 + 10
    assert cpu_ticks() - used < 100  # hundredths of a second, in two seconds


def test_health_follows_the_server(start_server) -> None:
    with start_server("--metrics-port", "0", "--drain-lag", "2") as server:
        address = metrics_address(server)
        assert page(address, "/health")[::2] == (200, "serving\n")
        check = [sys.executable, "-m", "segue_server.health_check", f"http://{address}/health"]
        assert subprocess.run(check, timeout=PATIENCE, check=False).returncode == 0
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while (seen := page(address, "/health"))[0] == 200:
            assert time.monotonic() < deadline
        assert seen[::2] == (503, "not serving\n")
        failed = subprocess.run(check, timeout=PATIENCE, check=False, capture_output=True, text=True)
        assert failed.returncode == 1
        assert "Traceback" not in failed.stderr
