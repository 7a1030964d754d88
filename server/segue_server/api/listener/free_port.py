"""Whether one can listen on a port, asked before models are loaded: gRPC listens after that, and gives no reason."""

import errno
import os
import socket

from segue_server.address import joined_address
from segue_server.errors import StartupError


def check_free(host: str, port: int, *, option: str = "--port") -> None:
    """Raise StartupError if one cannot listen on `port` of `host`. `option`: the one that chose the port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a name"
        raise StartupError(
            f"cannot listen on {joined_address(host, port)}: --host {host} is not known ({reason}); "
            "name an address of this machine, such as --host 127.0.0.1"
        ) from error
    what = "serve metrics" if option == "--metrics-port" else "listen"
    reasons = [_why_not(family, address) for family, *_, address in found]
    if errno.EADDRINUSE in reasons or all(reasons):
        number = errno.EADDRINUSE if errno.EADDRINUSE in reasons else next(filter(None, reasons))
        raise StartupError(f"cannot {what} on {joined_address(host, port)}: {_explained(number, option)}")


def _why_not(family: int, address: tuple[object, ...]) -> int | None:
    """Return the error number with which listening there fails; None if it works."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that ended do not count
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error.errno
    return None


def _explained(number: int, option: str) -> str:
    if number == errno.EADDRINUSE:
        return f"another program listens there; choose another {option} (0: any free one), or end that program"
    if number == errno.EACCES:
        return f"only root may use a port this low; choose a {option} from 1024 on"
    if number == errno.EADDRNOTAVAIL:
        return "this machine has no such address; name one that it has, such as --host 127.0.0.1"
    return f"{os.strerror(number)}; choose another --host or {option}"
