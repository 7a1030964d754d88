"""The proxy of `http_proxy`: not for this machine, and named where it stands in the way."""

import socket
from typing import Any

import pytest
from segue_client import Client, ServerUnavailable
from segue_client.transport.proxy import detour_to, is_this_machine

SPELLINGS = [
    "127.0.0.1:{}",
    "localhost:{}",
    "LOCALHOST:{}",
    "0.0.0.0:{}",
    "ipv4:127.0.0.1:{}",
    "dns:127.0.0.1:{}",
    "dns:///localhost:{}",
]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, free_port: int) -> str:
    """A proxy at which nobody listens."""
    for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{free_port}")
    return "http_proxy"


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.usefixtures("proxy")
def test_it_is_not_asked_for_this_machine_however_that_is_spelled(peer: Any, spelling: str) -> None:
    with Client(spelling.format(peer.address.rpartition(":")[2]), timeout=20) as client:
        assert client.models()


def test_this_machine_has_many_names() -> None:
    for host in (socket.gethostname(), socket.gethostname().upper(), "[::1]", "[::]", "127.9.9.9", "a.localhost"):
        assert is_this_machine(f"{host}:50051")
    assert is_this_machine("unix:/run/segue")
    for elsewhere in ("gpu-box.invalid:1", "192.0.2.1:1", "ipv4:127.0.0.1:1,192.0.2.1:1", "xds:///segue"):
        assert not is_this_machine(elsewhere)


def test_a_proxy_in_the_way_is_named_with_the_way_round_it(proxy: str) -> None:
    with Client("gpu-box.invalid:50051", timeout=20) as client, pytest.raises(ServerUnavailable) as caught:
        client.models()
    assert f"through the proxy of {proxy}: to go without it, set no_proxy=gpu-box.invalid" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_way_round_it_works(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert detour_to("gpu-box.invalid:50051")
    monkeypatch.setenv("no_proxy", "other, gpu-box.invalid")
    assert not detour_to("gpu-box.invalid:50051")
    with Client("gpu-box.invalid:50051", timeout=20) as client, pytest.raises(ServerUnavailable) as caught:
        client.models()
    assert proxy not in str(caught.value)
