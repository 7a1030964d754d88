"""Accepts calls of busy methods: several in a turn of the event loop, and those to be refused at a small cost.

grpc.aio asks gRPC for one call of a method at a time, some turns of the loop apart, and makes two tasks of it before
anyone can refuse it. Under overload that costs more than the work that is refused. Here several requests for a call are
open at once, and a refused one is answered with its status alone.

This needs functions that grpc.aio does not promise to keep. Where they are missing, it accepts all calls by itself, as
it does those of other methods: `start` returns whether they were found.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

import grpc.aio
from grpc import _cython

from segue_server.api.calls.status import Status

cygrpc: Any = _cython.cygrpc  # type: ignore[attr-defined] # has no stubs

OPEN_REQUESTS: Final = 16
"""For calls of one method: so many are refused in one turn of the event loop, in some milliseconds."""

_NEEDED: Final = ("_ServicerContext", "_MethodResolver", "_handle_rpc", "_schedule_rpc_coro")
_NEEDED_TO_REFUSE: Final = ("_send_error_status_from_server", "SendInitialMetadataOperation")

Refusal = Callable[[str, grpc.aio.ServicerContext[Any, Any]], Status | None]
"""Returns with what status to refuse a call of a method, None: not at all."""


class Acceptors:
    """Accepts calls of the services that are added here, for a server and until it stops."""

    def __init__(self, server: grpc.aio.Server, interceptor: grpc.aio.ServerInterceptor, refusal: Refusal) -> None:
        self._public = server
        self._server: Any = server._server  # type: ignore[attr-defined] # noqa: SLF001 - there is no public way
        self._interceptors = (interceptor,)
        self._refusal = refusal
        self._handlers: dict[str, Any] = {}
        """By path."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Pass handlers on to the server, for the generated code."""
        self._public.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Pass handlers on to the server, for the generated code, and note them."""
        self._public.add_registered_method_handlers(service, handlers)
        self._handlers |= {f"/{service}/{method}": handler for method, handler in handlers.items()}

    def start(self) -> bool:
        """Accept calls for the server, which has started; return whether this grpc.aio has what is needed."""
        needed = all(hasattr(cygrpc, name) for name in (*_NEEDED, *_NEEDED_TO_REFUSE))
        if not (needed and hasattr(self._server, "_request_registered_call")):
            return False
        self._loop = asyncio.get_running_loop()
        self._resolver = cygrpc._MethodResolver([], self._handlers)  # noqa: SLF001
        for path in self._handlers:
            for _ in range(OPEN_REQUESTS):
                self._run(self._accept(path))
        return True

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine` in a task; the event loop alone would not keep it alive."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, path: str) -> None:
        encoded = path.encode()
        while True:
            try:
                state = await self._server._request_registered_call(encoded)  # noqa: SLF001
            except (cygrpc._RequestCallError, grpc.aio.BaseError):  # noqa: SLF001 - the server stops
                return
            context = cygrpc._ServicerContext(state, None, None, self._loop)  # noqa: SLF001
            status = self._refusal(path, context)
            if status is None:
                self._run(self._handle(path, state))
            else:
                self._run(_refuse(state, status, self._loop))
            del state, context  # the call must not wait for the next one

    def _handle(self, path: str, state: Any) -> Coroutine[Any, Any, None]:
        """Return what handles a call. It alone may hold the call from then on."""
        handling = cygrpc._handle_rpc(path, self._resolver, self._interceptors, state, self._loop, False)  # noqa: SLF001
        running: Coroutine[Any, Any, None] = cygrpc._schedule_rpc_coro(handling, state, self._loop, path)  # noqa: SLF001
        return running


async def _refuse(state: Any, status: Status, loop: asyncio.AbstractEventLoop) -> None:
    metadata = cygrpc.SendInitialMetadataOperation((), 0)
    with suppress(cygrpc.ExecuteBatchError):  # the client has gone
        await cygrpc._send_error_status_from_server(  # noqa: SLF001
            state, status.code.value[0], status.text, status.metadata, metadata, loop
        )
