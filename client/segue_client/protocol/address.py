"""What an address looks like: HOST:PORT, or another of gRPC's names, with a port."""

import re
from typing import Final

from segue_client.errors import InvalidRequest

_WITH_PORTS: Final = ("dns", "ipv4", "ipv6")
_WITHOUT_PORTS: Final = ("unix", "unix-abstract", "vsock", "xds", "google-c2p")
_HOST_AND_PORT: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\],]+):(?P<port>\d{1,5})")
_MOST_PORTS: Final = 2**16

DEFAULT_PORT: Final = 50051


def checked_address(address: object) -> str:
    """Return `address`; raise InvalidRequest, with a remedy, for what gRPC would look for in vain."""
    if not isinstance(address, str) or not address:
        raise InvalidRequest(f"the server's address is {address!r}; name one, such as 127.0.0.1:{DEFAULT_PORT}")
    if "://" in address and not _is_name(address):
        raise InvalidRequest(f"the server's address {address!r} is a URL; write {_without_url(address)}")
    if not _is_without_port(address):
        for place in _places(address):
            _check_place(address, place)
    return address


def hosts_of(address: str) -> tuple[str, ...]:
    """Return the hosts of a checked address, in lower case and without brackets; none for a socket of this machine."""
    if _is_without_port(address):
        return ()
    return tuple(place.rpartition(":")[0].strip("[]").lower() for place in _places(address))


def is_local_socket(address: str) -> bool:
    """Whether it is a socket in the file system, or one like it."""
    return _scheme(address) in ("unix", "unix-abstract", "vsock")


def _scheme(address: str) -> str:
    scheme = address.partition(":")[0].lower()
    return scheme if scheme in _WITH_PORTS + _WITHOUT_PORTS and not _HOST_AND_PORT.fullmatch(address) else ""


def _is_name(address: str) -> bool:
    return bool(_scheme(address))


def _is_without_port(address: str) -> bool:
    return _scheme(address) in _WITHOUT_PORTS


def _places(address: str) -> list[str]:
    """Return each HOST:PORT; ipv4: and ipv6: may have several."""
    scheme = _scheme(address)
    if not scheme:
        return [address]
    place = re.sub(r"^//[^/]*/", "", address.partition(":")[2])
    return place.split(",") if scheme != "dns" else [place]


def _check_place(address: str, place: str) -> None:
    if (match := _HOST_AND_PORT.fullmatch(place)) and 0 < int(match["port"]) < _MOST_PORTS:
        return
    raise InvalidRequest(f"the server's address {address!r} {_fault(place, match)}")


def _fault(place: str, match: re.Match[str] | None) -> str:
    if match:
        return f"has port {match['port']}; choose 1 to {_MOST_PORTS - 1:,}"
    if "," in place:
        return "holds several; give them as a list"
    if place.count(":") > 1 and "[" not in place and re.fullmatch(r"[0-9A-Fa-f:.]+", place):
        return f"is IPv6 without brackets; write [ADDRESS]:PORT, such as [::1]:{DEFAULT_PORT}"
    if ":" not in place.rpartition("]")[2] and re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[\w.-]+", place):
        return f"has no port; write {place}:{DEFAULT_PORT}, or its own port"
    return f"is not HOST:PORT, such as 127.0.0.1:{DEFAULT_PORT}"


def _without_url(address: str) -> str:
    place = address.partition("://")[2].partition("/")[0].rpartition("@")[2]
    if _HOST_AND_PORT.fullmatch(place):
        return place
    return f"{place}:{DEFAULT_PORT}, or its own port" if re.fullmatch(r"[\w.-]+", place) else "HOST:PORT"
