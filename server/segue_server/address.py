"""What --host may be. For the command, before the slow imports."""

import ipaddress
import re
from contextlib import suppress
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*)")
_WITH_PORT: Final = re.compile(r"(?P<host>.+):(?P<port>[0-9]{1,5})")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?P<rest>[^/]*)/?")


class BadHost(ValueError):  # noqa: N818 - says what it is
    """What --host cannot be; the text names a value or options that do work."""


def read_host(text: str) -> str:
    """Return the address or name in `text`, an IPv6 address without its brackets. Raises BadHost."""
    if _address(text) or (_NAME.fullmatch(text) and not text.isdigit()):
        return text
    if text.startswith("[") and text.endswith("]") and _address(text[1:-1]):
        return text[1:-1]
    if with_scheme := _SCHEME.fullmatch(text):
        raise BadHost(f"--host {text!r} begins with a scheme; write {_options(with_scheme['rest'])}")
    if text.startswith("unix"):
        raise BadHost(f"--host {text!r}: the server listens on TCP ports alone; write --host 127.0.0.1")
    if (with_port := _WITH_PORT.fullmatch(text)) and _is_host(with_port["host"]):
        raise BadHost(f"--host {text!r} holds a port; write {_options(text)}")
    raise BadHost(f"--host {text!r} is neither an address nor the name of a machine; write --host 127.0.0.1")


def is_of_this_machine_alone(host: str) -> bool:
    """Return whether no other machine can reach `host`, as `read_host` returns it."""
    address = _address(host)
    return address.is_loopback if address else host.lower() == "localhost"


def joined_address(host: str, port: int) -> str:
    """Return HOST:PORT, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with suppress(ValueError):
        return ipaddress.ip_address(text)
    return None


def _is_host(text: str) -> bool:
    with suppress(BadHost):
        return bool(read_host(text))
    return False


def _options(text: str) -> str:
    """Return how to write HOST or HOST:PORT."""
    host, port = (found["host"], found["port"]) if (found := _WITH_PORT.fullmatch(text)) else (text, "")
    host = read_host(host) if _is_host(host) else "127.0.0.1"
    return f"--host {host} --port {port}" if port and int(port) < 2**16 else f"--host {host}"
