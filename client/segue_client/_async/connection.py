"""The asynchronous client's channels to its addresses, and calls over them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeVar, cast

import grpc

from segue_client.errors import Cancelled, SegueError, translate
from segue_client.protocol.addresses import Addresses
from segue_client.protocol.retry import RetryState
from segue_client.transport.channel import call_metadata, channel_options
from segue_client.transport.settings import ConnectionSettings
from segue_client.transport.stubs import AsyncStubs

_Response = TypeVar("_Response")
_Received_co = TypeVar("_Received_co", covariant=True)


class AsyncServerStream(Protocol[_Received_co]):
    """The part of a grpc.aio call that brings several messages which its reader needs."""

    async def read(self) -> Any:
        """Return the next message, or grpc.aio.EOF."""

    def cancel(self) -> bool:
        """Give the call up."""

    def __aiter__(self) -> AsyncIterator[_Received_co]: ...


class AsyncMessageStream(AsyncIterator[_Response]):
    """The messages of one call, as they come; it raises the errors of `segue_client.errors`."""

    def __init__(self, call: AsyncServerStream[_Response], address: str) -> None:
        self._call = call
        self._address = address

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Response:
        with translated(self._address):
            message = await self._call.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return cast("_Response", message)

    def cancel(self) -> None:
        """Give the call up. Reading on raises Cancelled; after the end nothing happens."""
        self._call.cancel()


class AsyncConnection:
    """One channel to each address, made when it is needed. It belongs to one event loop."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self._addresses = Addresses(settings.target)
        self._metadata = call_metadata(settings.tenant)
        self._channels: dict[str, tuple[grpc.aio.Channel, AsyncStubs]] = {}
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether its calls have been cancelled and there will be no more."""
        return self._is_closed

    def resumption(self, timeout: float | None, *, resume: bool | None = None) -> RetryState:
        """Return what a call that was given these does about its failures; None: as the client was told."""
        return self.settings.resumption(self._addresses, timeout, resume=resume)

    async def unary(
        self,
        method: Callable[[AsyncStubs], Callable[..., Awaitable[_Response]]],
        request: object,
        resumption: RetryState,
    ) -> _Response:
        """Make one call that may be repeated, until it succeeds or `resumption` gives up."""
        while True:
            try:
                with translated(resumption.address):
                    response = await method(self._stubs(resumption.address))(
                        request, timeout=resumption.deadline.left, metadata=self._metadata
                    )
            except SegueError as error:
                await self.wait_after(error, resumption)
            else:
                resumption.progressed()
                return response

    def stream(
        self,
        method: Callable[[AsyncStubs], Callable[..., AsyncServerStream[_Response]]],
        request: object,
        resumption: RetryState,
    ) -> AsyncMessageStream[_Response]:
        """Begin a call that brings several messages, where `resumption` says; it ends at the first failure.

        `request` is one message or an iterator of them.
        """
        address = resumption.address
        call = method(self._stubs(address))(request, timeout=resumption.deadline.left, metadata=self._metadata)
        return AsyncMessageStream(call, address)

    async def wait_after(self, error: SegueError, resumption: RetryState) -> None:
        """Wait until the next try; raise `error` where there is to be none."""
        if self._is_closed:
            raise error
        await asyncio.sleep(resumption.delay_after(error))

    async def close(self) -> None:
        """Close the channels; calls still running are cancelled."""
        self._is_closed = True
        for channel, _ in self._channels.values():
            await channel.close()

    def _stubs(self, address: str) -> AsyncStubs:
        if self._is_closed:
            raise Cancelled("the client is closed")
        if address not in self._channels:
            channel = self._channel(address)
            self._channels[address] = channel, AsyncStubs(channel)
        return self._channels[address][1]

    def _channel(self, address: str) -> grpc.aio.Channel:
        options = channel_options(address, self.settings.max_message_bytes)
        if self.settings.credentials:
            return grpc.aio.secure_channel(address, self.settings.credentials, options)
        return grpc.aio.insecure_channel(address, options)


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise the errors of a call to `address` as those of `segue_client.errors`.

    grpc.aio raises asyncio.CancelledError for a call that was cancelled on this side, even where nobody
    cancelled the task that waits for it; such a task is told so, and lives on.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise translate(error, address) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
        raise Cancelled("the call was cancelled") from error
