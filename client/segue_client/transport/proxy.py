"""Whether gRPC reaches an address through the proxy of `http_proxy`."""

import os
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from segue_client.protocol.address import hosts_of, is_local_socket

_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS: Final = ("no_grpc_proxy", "no_proxy")
"""gRPC's own, in its order; it obeys only lower case."""


def is_this_machine(address: str) -> bool:
    """Whether every host of a checked address is this machine, however it is spelled. Asks no name server."""
    return is_local_socket(address) or (bool(hosts := hosts_of(address)) and all(map(_is_here, hosts)))


def detour_to(address: str) -> str:
    """Return what to say where `address` is not reached: that a proxy is asked, and how to go without; or ""."""
    variable = next((name for name in _PROXIES if os.environ.get(name)), None)
    hosts = [host for host in hosts_of(address) if not _is_excepted(host)]
    if variable is None or not hosts or is_this_machine(address):
        return ""
    return f"through the proxy of {variable}: to go without it, set no_proxy={','.join(hosts)}"


def _is_here(host: str) -> bool:
    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or host == socket.gethostname().lower():
        return True
    try:
        ip = ip_address(host)
    except ValueError:
        return False
    return ip.is_loopback or ip.is_unspecified or _is_bindable(host)


def _is_bindable(ip: str) -> bool:
    """Whether it is an address of this machine's own network interfaces."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((ip, 0))
        return True
    return False


def _is_excepted(host: str) -> bool:
    exceptions = next((os.environ[name] for name in _EXCEPTIONS if os.environ.get(name)), "")
    return any(host.endswith(entry.strip()) for entry in exceptions.lower().split(",") if entry.strip())
