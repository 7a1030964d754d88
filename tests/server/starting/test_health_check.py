"""The container's health check, as an engine runs it, in an environment with a proxy."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

PROXY = "http://127.0.0.1:9"


def checked(address: str) -> subprocess.CompletedProcess[str]:
    proxies = {name: PROXY for each in ("http_proxy", "https_proxy", "all_proxy") for name in (each, each.upper())}
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"} | proxies
    command = [sys.executable, "-m", "segue_server.health_check", address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def addresses(start_server) -> Iterator[tuple[str, str]]:
    """HOST:PORT of gRPC, and the URL of /health."""
    with start_server("--metrics-port", "0") as server:
        url = re.search(r"metrics: (http://\S+)/metrics", server.log.read_text())
        assert url
        yield server.address, f"{url[1]}/health"


@pytest.mark.parametrize("which", [0, 1], ids=["grpc", "http"])
def test_the_servers_own_address_is_asked_whatever_proxy_is_set(addresses: tuple[str, str], which: int) -> None:
    done = checked(addresses[which])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1/health"])
def test_no_server_is_one_line_and_a_failure(address: str) -> None:
    done = checked(address)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(address)
    assert "Connection refused" in line
