"""What an address may look like."""

import re
from typing import Any

import pytest
from segue_client import InvalidRequest
from segue_client.protocol.address import checked_address, hosts_of


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("127.0.0.1:50051", ("127.0.0.1",)),
        ("GPU-box:1", ("gpu-box",)),
        ("[::1]:65535", ("::1",)),
        ("dns:box:1", ("box",)),
        ("dns:///box:1", ("box",)),
        ("dns://8.8.8.8/box:1", ("box",)),
        ("ipv4:10.0.0.1:5,10.0.0.2:6", ("10.0.0.1", "10.0.0.2")),
        ("ipv6:[fe80::1%eth0]:4", ("fe80::1%eth0",)),
        ("unix:/run/segue", ()),
        ("unix:///run/segue", ()),
        ("xds:///segue", ()),
    ],
)
def test_what_grpc_understands_is_left_as_it_is(address: str, hosts: tuple[str, ...]) -> None:
    assert checked_address(address) == address
    assert hosts_of(address) == hosts


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("127.0.0.1", "127.0.0.1:50051"),
        ("gpu-box", "gpu-box:50051"),
        ("[::1]", "[::1]:50051"),
        ("dns:///box", "box:50051"),
        ("http://127.0.0.1:5", "127.0.0.1:5"),
        ("https://me:secret@box/path", "box:50051"),
        ("grpc://box:7/", "box:7"),
    ],
)
def test_the_remedy_is_an_address(address: str, remedy: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"{re.escape(repr(address))}.*write {re.escape(remedy)}"):
        checked_address(address)
    assert checked_address(remedy) == remedy


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("", "name one"),
        (None, "name one"),
        (b"box:1", "name one"),
        ("::1", "brackets"),
        ("::1:50051", "brackets"),
        ("a:1,b:2", "list"),
        ("box:0", "port 0"),
        ("box:65536", "port 65536"),
        ("box:http", "HOST:PORT"),
        ("box:1/path", "HOST:PORT"),
        ("b ox:1", "HOST:PORT"),
        ("box:1\n", "HOST:PORT"),
        (":1", "HOST:PORT"),
    ],
)
def test_what_it_would_look_for_in_vain_is_refused(address: Any, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault) as caught:
        checked_address(address)
    assert "\n" not in str(caught.value)
