"""Wraps every call of segue's own services: lets it in or refuses it, turns errors into statuses, and counts it.

Whatever a handler's type, the wrapped one reads its request itself, as if it were a stream. gRPC would read a unary
request before it calls the handler: all of it, for as long as it takes, also where the call is refused.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from segue_server.api.calls.call import Call, Patience, client_of
from segue_server.api.calls.call_tasks import abandon, current_task
from segue_server.api.calls.status import INTERNAL, Status, status_of
from segue_server.errors import InvalidRequest, RequestError, Stopping
from segue_server.limits import SHORT_METHOD, TEXT_METHOD, TEXTS_METHOD, MethodLimits
from segue_server.runtime.admission import Admission
from segue_server.runtime.registry import Registry
from segue_server.telemetry.rate_limited_log import client_faults

_OWN_SERVICES: Final = "/segue."
_SHORT_SERVICES: Final = ("/segue.v1.SessionService/", "/segue.v1.ModelService/")
_TEXTS_METHODS: Final = ("/segue.v1.ScoringService/Score", "/segue.v1.ScoringService/ScoreCandidates")

_ARRIVAL_SECONDS: Final = 10.0
"""For a request of another service, health or reflection, to arrive."""
_REFLECTION_SECONDS: Final = 60.0
"""For a call of reflection to end: gRPC reads its requests for as long as it lasts."""

_log = logging.getLogger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Answer = Callable[[Call], Awaitable[bytes]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of segue's services. Health and reflection refuse nobody, but requests must arrive."""

    def __init__(self, registry: Registry, admission: Admission, patience: Patience) -> None:
        self._backlogs = registry.backlogs
        self._admission = admission
        self._patience = patience
        self._wrapped: dict[str, _Handler] = {}
        self._waiting: set[asyncio.Task[Any]] = set()
        """Calls of other services whose requests have not arrived."""
        self._stopping = False
        self._in_progress = 0
        self._none_in_progress = asyncio.Event()
        self._none_in_progress.set()
        self._unsent = 0
        self._none_unsent = asyncio.Event()
        self._none_unsent.set()

    @property
    def is_busy(self) -> bool:
        """Whether a call is in progress."""
        return self._in_progress > 0

    def refuse_new_calls(self) -> None:
        """Answer every new call with UNAVAILABLE."""
        self._stopping = True

    async def all_answered(self) -> None:
        """Wait until no call is in progress."""
        await self._none_in_progress.wait()

    async def all_sent(self) -> None:
        """Wait until every call has ended for its client too, with its last message and its status."""
        await self._none_unsent.wait()

    def refusal(self, method: str, context: _Context) -> Status | None:
        """Return with what status to refuse a call before anything is done for it; None: let it come to its handler."""
        if self._stopping or not _limits_of(method).uses_engine:
            return None
        try:
            self._admission.check(self._backlogs, *client_of(context, self._admission))
        except RequestError as error:
            return status_of(error)
        return None

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Return the handler for grpc to call."""
        method = str(handler_call_details.method)
        if (known := self._wrapped.get(method)) is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if not method.startswith(_OWN_SERVICES):
            return self._limit_arrival(handler)
        wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def abandon_waiting(self) -> None:
        """Reset the calls of health and reflection whose requests have not arrived: memory is short."""
        for task in list(self._waiting):
            abandon(task)

    def _limit_arrival(self, handler: Any) -> _Handler:
        """Return `handler` for this call alone, which is reset if its request does not arrive in time."""
        task = current_task()
        seconds = _REFLECTION_SECONDS if handler.request_streaming else _ARRIVAL_SECONDS
        timer = asyncio.get_running_loop().call_later(seconds, abandon, task)
        self._waiting.add(task)

        def arrived(_: object = None) -> None:
            timer.cancel()
            self._waiting.discard(task)

        task.add_done_callback(arrived)
        if handler.request_streaming:
            known: _Handler = handler
            return known
        behavior = handler.unary_stream or handler.unary_unary

        async def answer(data: bytes, context: _Context) -> Any:
            arrived()
            try:
                request = handler.request_deserializer(data)
            except DecodeError:  # gRPC would print a traceback if it could not tell the client
                client_faults.warn("no message", "a client sent what is no message of its method")
                context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
                context.set_details("the request is not a message of this method")
                return None
            return await behavior(request, context)

        make: Any = grpc.unary_unary_rpc_method_handler
        if handler.response_streaming:
            make = grpc.unary_stream_rpc_method_handler
        limited: _Handler = make(answer, None, handler.response_serializer)
        return limited

    def _wrap(self, handler: Any, method: str) -> _Handler:
        answer = self._guard(_answer_of(handler), method, _limits_of(method))
        # Without deserializer and serializer, messages are bytes here. The type stubs declare synchronous handlers.
        make: Any = grpc.stream_unary_rpc_method_handler
        if handler.response_streaming:
            make = grpc.stream_stream_rpc_method_handler
        wrapped: _Handler = make(answer)
        return wrapped

    def _guard(self, answer: _Answer, method: str, limits: MethodLimits) -> Any:
        async def guarded(requests: Any, context: _Context) -> bytes:
            del requests  # they are read from the context, with a time limit
            call = Call(context, limits, self._admission, self._backlogs, self._patience)
            reply, failure = b"", None
            self._count_until_sent()
            try:
                with self._count_call():
                    call.enter()
                    reply = await answer(call)
            except RequestError as error:
                failure = status_of(error)
            except (grpc.aio.BaseError, asyncio.CancelledError):  # the call is over: there is no client to tell
                raise
            except Exception:  # noqa: BLE001 - the client gets a fixed text, the log the details
                _log.exception("%s failed", method)
                failure = INTERNAL
            call.end(failure)
            return reply

        return guarded

    def _count_until_sent(self) -> None:
        """Count a call until its last message has left, and its task has ended."""
        self._unsent += 1
        self._none_unsent.clear()
        current_task().add_done_callback(self._count_sent)

    def _count_sent(self, _: object) -> None:
        self._unsent -= 1
        if not self._unsent:
            self._none_unsent.set()

    @contextmanager
    def _count_call(self) -> Iterator[None]:
        """Count a call for the length of the block; raises Stopping if new calls are refused."""
        if self._stopping:
            raise Stopping("the server is stopping; try another one")
        self._in_progress += 1
        self._none_in_progress.clear()
        try:
            yield
        finally:
            self._in_progress -= 1
            if not self._in_progress:
                self._none_in_progress.set()


def _limits_of(method: str) -> MethodLimits:
    if method.startswith(_SHORT_SERVICES):
        return SHORT_METHOD
    return TEXTS_METHOD if method in _TEXTS_METHODS else TEXT_METHOD


def _answer_of(handler: Any) -> _Answer:
    """Return how to answer a call of `handler`, which takes a request, or an iterator of them, and the call."""
    behavior = handler.stream_stream or handler.unary_stream or handler.unary_unary
    message: type[Message] = handler.request_deserializer.__self__  # it is the class's `FromString`

    async def answer_stream(call: Call) -> bytes:
        await behavior(_messages(call, message), call)
        return b""

    async def answer_with_stream(call: Call) -> bytes:
        await behavior(await _only_message(call, message), call)
        return b""

    async def answer(call: Call) -> bytes:
        return call.reply(await behavior(await _only_message(call, message), call))

    if handler.request_streaming:
        return answer_stream
    return answer_with_stream if handler.response_streaming else answer


async def _only_message(call: Call, message: type[Message]) -> Message:
    if (request := await call.read(message)) is None:
        raise InvalidRequest("the call ended without a request; send one")
    return request


async def _messages(call: Call, message: type[Message]) -> AsyncIterator[Message]:
    request = await call.read(message)
    while request is not None:
        yield request
        request = await call.read_next(message)
