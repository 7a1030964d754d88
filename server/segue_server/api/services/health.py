"""The health service (grpc.health.v1), with one status for the server and all its services.

Each watcher is written to by its own call. In grpc_health they take turns under one lock, so that one that does not
read holds up the others, and their calls never end by themselves, so that each delays the end of a server.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from segue_server.api.calls.call_tasks import current_task

Status = int
"""One of health_pb2.HealthCheckResponse.ServingStatus."""

_Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # the library has no types
    """Says whether the server takes calls. All methods are for the event loop's thread."""

    def __init__(self, services: Iterable[str]) -> None:
        """Begin as NOT_SERVING, for the server as a whole ("") and for `services`."""
        self._services = frozenset(("", *services))
        self._status: Status = health_pb2.HealthCheckResponse.NOT_SERVING
        self._changed = asyncio.Event()
        self._ending = False
        self._watches: set[asyncio.Task[Any]] = set()
        """The tasks of the watchers' calls, which end when their statuses have been sent."""

    def announce(self, status: Status) -> None:
        """Change the status, and tell the watchers."""
        self._status = status
        self._wake_watchers()

    async def end_watches(self, seconds: float) -> None:
        """End the calls of the watchers, after each has been told the latest status; wait for this for `seconds`."""
        self._ending = True
        self._wake_watchers()
        if self._watches:
            await asyncio.wait(self._watches, timeout=seconds)

    async def Check(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        """Return the status; NOT_FOUND for a service that the server does not have."""
        if request.service not in self._services:
            known = ", ".join(sorted(self._services - {""}))
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"service is {request.service!r:.80}; name none, for the whole server, or one of {known}",
            )
        return health_pb2.HealthCheckResponse(status=self._status)

    async def List(  # noqa: N802
        self, _request: health_pb2.HealthListRequest, _context: _Context
    ) -> health_pb2.HealthListResponse:
        """Return the status of every service."""
        response = health_pb2.HealthCheckResponse(status=self._status)
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._services, response))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: _Context) -> None:  # noqa: N802
        """Send the status, and again whenever it changes; SERVICE_UNKNOWN for a service that the server has not."""
        task, told = current_task(), None
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)
        while True:
            changed, status = self._changed, self._status_of(request.service)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            elif self._ending:
                return
            else:
                await changed.wait()

    def _status_of(self, service: str) -> Status:
        return self._status if service in self._services else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

    def _wake_watchers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
