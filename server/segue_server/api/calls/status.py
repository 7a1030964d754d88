"""The status that a call ends with: code, text, and the machine-readable details in its trailing metadata."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from segue_server.errors import Overloaded, RequestError

ERROR_DOMAIN: Final = "segue"

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Status:
    """How a call fails."""

    code: grpc.StatusCode
    text: str
    metadata: Metadata = ()


INTERNAL: Final = Status(grpc.StatusCode.INTERNAL, "the server failed on this request; its log says why")


def status_of(error: RequestError) -> Status:
    """Return the status for `error`."""
    if isinstance(error, Overloaded):
        return _refusal(str(error), error.reason, round(error.retry_after, 1))
    details = _details(error.status, str(error), _error_info(error.reason))
    return Status(error.status, str(error), (details,))


@lru_cache(maxsize=1024)
def _refusal(text: str, reason: str, retry_after: float) -> Status:
    """Return an overloaded server's status. Many calls get the same one, just when time is scarce."""
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(round(retry_after * 1e3))
    details = _details(Overloaded.status, text, _error_info(reason), error_details_pb2.RetryInfo(retry_delay=delay))
    # For gRPC's own retries, where a client's service config allows them (gRFC A6).
    pushback = ("grpc-retry-pushback-ms", str(round(retry_after * 1e3)))
    return Status(Overloaded.status, text, (details, pushback))


def _error_info(reason: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN)


def _details(
    code: grpc.StatusCode, text: str, *details: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo
) -> tuple[str, bytes]:
    """Return a google.rpc.Status as trailing metadata."""
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=text, details=packed)
    return ("grpc-status-details-bin", status.SerializeToString())
