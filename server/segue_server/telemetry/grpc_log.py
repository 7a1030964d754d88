"""What the libraries log about clients, in one line instead of a traceback.

grpc.aio logs an error with its traceback where a client goes away in the midst of a call, or its connection breaks
while a status is sent; asyncio does so where files run out as a client connects. Anybody can cause thousands of these.
Errors of our own keep their tracebacks.
"""

import logging
from dataclasses import dataclass
from typing import Final

import grpc.aio

from segue_server.telemetry.rate_limited_log import client_faults


@dataclass(frozen=True)
class _Fault:
    """A message of a library that clients can cause."""

    logger: str
    start: str
    """Of the message."""
    errors: tuple[type[BaseException], ...]
    """Its exception is one of these; empty: whatever it is, even none."""
    kind: str
    text: str


_CALL_OVER: Final = (grpc.aio.BaseError, ConnectionError)
_CYGRPC: Final = "grpc._cython.cygrpc"

_FAULTS: Final = (
    # A batch of operations failed: the stream or its connection is gone.
    _Fault(_CYGRPC, "ExecuteBatchError raised", (), "broken call", "a client left in the midst of a call"),
    _Fault(_CYGRPC, "Failed sending error status", (), "broken call", "a client left before its status was sent"),
    _Fault(_CYGRPC, "Exception not handled by", _CALL_OVER, "broken call", "a client left in the midst of a call"),
    _Fault(_CYGRPC, "Unexpected [", _CALL_OVER, "broken call", "a client left in the midst of a call"),
    _Fault(_CYGRPC, "Aborting method", (), "stopped call", "a call was still running when the server stopped"),
    _Fault(
        "asyncio",
        "socket.accept() out of system resource",
        (),
        "no files",
        "no file is left for a connection to the metrics port; it accepts again in a second",
    ),
    _Fault("asyncio", "Task exception was never retrieved", _CALL_OVER, "broken call", "a client left a call"),
)


class _ClientFaultFilter(logging.Filter):
    """Drops what _FAULTS lists and reports it to `client_faults` instead."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        for fault in _FAULTS:
            if record.name == fault.logger and message.startswith(fault.start) and _fits(error, fault):
                client_faults.warn(fault.kind, fault.text)
                return False
        return True


def _fits(error: BaseException | None, fault: _Fault) -> bool:
    return not fault.errors or isinstance(error, fault.errors)


_FILTER: Final = _ClientFaultFilter()


def limit_library_logs() -> None:
    """Have the loggers of _FAULTS report to `client_faults`; once is enough."""
    for name in {fault.logger for fault in _FAULTS}:
        logging.getLogger(name).addFilter(_FILTER)
