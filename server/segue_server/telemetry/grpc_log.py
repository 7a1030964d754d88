"""What grpc.aio logs about clients, in one line instead of a traceback.

It logs an error with its traceback where a client's connection breaks while a reply or a status is sent, and where
health checks, reflection or metadata cannot be decoded, metadata with its bytes. Anybody can cause thousands of these.
Errors of our own keep their tracebacks.
"""

import logging
from dataclasses import dataclass
from typing import Final

import grpc.aio
from google.protobuf.message import DecodeError

from segue_server.telemetry.rate_limited_log import client_faults


@dataclass(frozen=True)
class _Fault:
    """A message of grpc.aio that clients can cause."""

    start: str
    """Of the message."""
    errors: tuple[type[BaseException], ...]
    """Its exception is one of these; empty: whatever it is, even none."""
    kind: str
    text: str


_LOGGER: Final = "grpc._cython.cygrpc"
_BROKEN: Final = "broken calls"
_LEFT: Final = "a client left in the midst of a call"

_FAULTS: Final = (
    # A batch of operations failed: the stream or its connection is gone.
    _Fault("ExecuteBatchError raised", (), _BROKEN, _LEFT),
    _Fault("Failed sending error status", (), _BROKEN, _LEFT),
    _Fault("Unexpected [", (grpc.aio.BaseError,), _BROKEN, _LEFT),
    _Fault("Exception not handled by", (grpc.aio.BaseError,), _BROKEN, _LEFT),
    # Services that are not ours parse and answer by themselves.
    _Fault(
        "Unexpected [",
        (DecodeError,),
        "undecodable messages",
        "a client sent what is no message of its method",
    ),
    _Fault("Unexpected [", (NotImplementedError,), "unknown methods", "a client called a method that is not there"),
    _Fault("Invalid encoding on", (), "undecodable metadata", "a client sent metadata that is not UTF-8"),
    _Fault("Aborting method", (), "stopped calls", "a call was still running when the server stopped"),
)


class _ClientFaultFilter(logging.Filter):
    """Drops what _FAULTS lists and reports it to `client_faults` instead."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        for fault in _FAULTS:
            if message.startswith(fault.start) and _fits(error, fault):
                client_faults.warn(fault.kind, fault.text)
                return False
        return True


def _fits(error: BaseException | None, fault: _Fault) -> bool:
    return not fault.errors or isinstance(error, fault.errors)


_FILTER: Final = _ClientFaultFilter()


def limit_grpc_log() -> None:
    """Have grpc.aio report what _FAULTS lists to `client_faults`; once is enough."""
    logging.getLogger(_LOGGER).addFilter(_FILTER)
