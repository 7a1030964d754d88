"""Wraps every call of segue's own services: turns errors into statuses, and counts the calls in progress."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from segue_server.errors import InvalidRequest, Overloaded, RequestError, Stopping
from segue_server.limits import RETRY_AFTER_SECONDS

ERROR_DOMAIN: Final = "segue"
_OWN_SERVICES: Final = "/segue."
_STATUS_SECONDS: Final = 5.0
_INTERNAL_TEXT: Final = "the server failed on this request; its log says why"

_log = logging.getLogger(__name__)

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Behavior = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of segue's services. Health and reflection pass through unchanged."""

    def __init__(self) -> None:
        self._stopping = False
        self._in_progress = 0
        self._none_in_progress = asyncio.Event()
        self._none_in_progress.set()
        self._unsent = 0
        self._none_unsent = asyncio.Event()
        self._none_unsent.set()

    def refuse_new_calls(self) -> None:
        """Answer every new call with UNAVAILABLE."""
        self._stopping = True

    async def all_answered(self) -> None:
        """Wait until no call is in progress."""
        await self._none_in_progress.wait()

    async def all_sent(self) -> None:
        """Wait until every call has ended for its client too, with its last message and its status."""
        await self._none_unsent.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Return the handler for grpc to call."""
        handler = await continuation(handler_call_details)
        if handler is None or not str(handler_call_details.method).startswith(_OWN_SERVICES):
            return handler
        # The type stubs declare synchronous handlers; in grpc.aio these are coroutines.
        behavior: Any = handler.stream_stream or handler.unary_stream or handler.unary_unary
        deserialize: Any = handler.request_deserializer
        parse = _parse_each if handler.request_streaming else _parse
        answer = self._wrap(behavior, lambda request: parse(request, deserialize))
        make: Any = grpc.unary_unary_rpc_method_handler
        if handler.response_streaming:
            make = grpc.unary_stream_rpc_method_handler
        if handler.request_streaming:
            make = grpc.stream_stream_rpc_method_handler
        # Without a deserializer the request arrives as bytes, so that parse errors are wrapped too.
        wrapped: _Handler = make(answer, None, handler.response_serializer)
        return wrapped

    def _wrap(self, behavior: _Behavior, parse: Callable[[Any], Any]) -> Any:
        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self._count_until_sent(context)
            try:
                with self._count_call():
                    return await behavior(parse(request), context)
            except RequestError as error:
                await _abort(context, error.status, str(error), _details(error))
            except (grpc.aio.BaseError, asyncio.CancelledError):  # the call is over: there is no client to tell
                raise
            except Exception:  # noqa: BLE001 - the client gets a fixed text, the log the details
                _log.exception("a handler failed")
                await _abort(context, grpc.StatusCode.INTERNAL, _INTERNAL_TEXT, ())

        return answer

    def _count_until_sent(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._unsent += 1
        self._none_unsent.clear()
        sent: Any = self._count_sent  # the type stubs forget that a callback is a function
        context.add_done_callback(sent)

    def _count_sent(self, _context: object) -> None:
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


def _parse(request: bytes, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(request)
    except DecodeError:
        raise InvalidRequest("the request is not a message of this method") from None


async def _parse_each(requests: AsyncIterator[bytes], parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _parse(request, parse)


async def _abort(
    context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, text: str, metadata: tuple[Any, ...]
) -> None:
    """End the call with a status; gives up on a client that makes no room for it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_STATUS_SECONDS):
            await context.abort(code, text, metadata)


def _details(error: RequestError) -> tuple[tuple[str, bytes], ...]:
    """Return the error's machine-readable form (google.rpc.Status) as trailing metadata."""
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN))]
    if isinstance(error, Overloaded):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(RETRY_AFTER_SECONDS * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(code=error.status.value[0], message=str(error), details=details)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
