"""Keeps grpc.aio serving when a client calls a method whose name is not UTF-8.

grpc.aio (1.85.1) decodes the name of every method that is not registered in the task that accepts calls, and that task
ends with the UnicodeDecodeError: one request closes the port for everybody, while the process lives on. That code is
compiled and takes no other decoder. What it does take is the handler of undecodable bytes, which Python looks up by the
name "strict". Ours does as Python's own does, except in that one task: there the bytes become U+FFFD, no method has
such a name, and the client gets UNIMPLEMENTED.
"""

import asyncio
import codecs
from typing import Final

from segue_server.telemetry.rate_limited_log import client_faults

_ACCEPTING: Final = "AioServer._server_main_loop"


def answer_undecodable_paths() -> None:
    """Have grpc.aio answer such calls. For the whole process; once is enough."""
    codecs.register_error("strict", _strict)


def _strict(error: UnicodeError) -> tuple[str, int]:
    if isinstance(error, UnicodeDecodeError) and _accepting():
        client_faults.warn("undecodable methods", "a client called a method whose name is not UTF-8")
        return "\ufffd", error.end
    raise error


def _accepting() -> bool:
    """Return whether grpc.aio's task that accepts calls is running in this thread."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop here
        return False
    return task is not None and getattr(task.get_coro(), "__qualname__", "") == _ACCEPTING
