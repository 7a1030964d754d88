"""The channels of an AsyncClient to its addresses, and the calls over them."""

import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Generic, TypeVar
from weakref import WeakSet

import grpc
from segue.v1 import generation_pb2_grpc, model_pb2_grpc, scoring_pb2_grpc, session_pb2_grpc

from segue_client._async.concurrency import Lock, Owner, ServerStream, invoke, next_message, sleep, translated
from segue_client.errors import Cancelled, InvalidRequest, SegueError, ServerUnavailable
from segue_client.protocol.addresses import Addresses, Use
from segue_client.protocol.retry import RetryState
from segue_client.transport.channel import call_metadata, channel_options
from segue_client.transport.proxy import detour_to
from segue_client.transport.settings import ConnectionSettings

LOGGER: Final = logging.getLogger("segue_client")
"""Tells when a call begins to wait for a server."""

_Response = TypeVar("_Response")


class AsyncStubs:
    """The methods of the server behind one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self.scoring = scoring_pb2_grpc.ScoringServiceStub(channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)


class AsyncMessageStream(Generic[_Response]):
    """The messages of one call. Raises the errors of `segue_client.errors`."""

    def __init__(self, call: ServerStream[_Response], use: Use, failed: Callable[[SegueError], None]) -> None:
        """`failed`: told of the error that ends the call."""
        self._call = call
        self._use = use
        self._failed = failed
        self._process = os.getpid()

    async def receive(self) -> _Response | None:
        """Return the next message; None after the last one."""
        if self._process != os.getpid():
            raise InvalidRequest("the call belongs to the process that began it; begin another one in this process")
        try:
            with translated(self._use.address, detour_to):
                message = await next_message(self._call)
        except BaseException as error:
            self._use.end()
            if isinstance(error, SegueError):
                self._failed(error)
            raise
        if message is None:
            self._use.end()
        return message

    def cancel(self) -> None:
        """Cancel the call, from its event loop. `receive` then raises Cancelled; a call that has ended stays so."""
        self._use.end()
        if self._process == os.getpid():
            self._call.cancel()


class AsyncConnection:
    """One channel to each address, opened when it is needed. It belongs to one event loop."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self._addresses = Addresses(settings.target)
        self._metadata = call_metadata(settings.tenant)
        self._lock = Lock()
        self._owner = Owner()
        self._stubs: dict[str, AsyncStubs] = {}
        self._all_stubs = WeakSet[AsyncStubs]()
        """Also those left for new ones, as long as calls use them."""
        self._is_closed = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the servers, as given."""
        return self._addresses.all

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def retry_state(self, timeout: float | None, *, resume: bool | None = None, in_session: bool = False) -> RetryState:
        """Return the retry state of a new call; None: the client's own setting.

        `in_session`: whether the call opens, uses or lists sessions.
        """
        return self.settings.retry_state(self._addresses, timeout, resume=resume, in_session=in_session)

    async def ask(
        self,
        method: Callable[[AsyncStubs], Callable[..., Awaitable[_Response]]],
        request: object,
        timeout: float | None,
        *,
        in_session: bool = False,
    ) -> _Response:
        """Make a call that may be repeated, with the client's own retries."""
        return await self.unary(method, request, self.retry_state(timeout, in_session=in_session))

    async def unary(
        self,
        method: Callable[[AsyncStubs], Callable[..., Awaitable[_Response]]],
        request: object,
        retry: RetryState,
    ) -> _Response:
        """Make a call that may be repeated, until it succeeds or `retry` gives up."""
        while True:
            use = retry.begin()
            stubs = None
            try:
                with use, translated(use.address, detour_to):
                    stubs = self._stubs_of(use.address)
                    response = await invoke(
                        method(stubs), request, timeout=retry.deadline.left, metadata=self._metadata
                    )
            except SegueError as error:
                if stubs:
                    self._leave(use.address, stubs, error)
                await self.wait_after(error, retry)
            else:
                retry.note_progress()
                return response

    def stream(
        self,
        method: Callable[[AsyncStubs], Callable[..., ServerStream[_Response]]],
        request: object,
        retry: RetryState,
    ) -> AsyncMessageStream[_Response]:
        """Begin a call that returns several messages; it is not repeated after a failure.

        `request` is one message or an iterator of them.
        """
        use = retry.begin()
        try:
            stubs = self._stubs_of(use.address)
            call = method(stubs)(request, timeout=retry.deadline.left, metadata=self._metadata)
        except BaseException:
            use.end()
            raise
        return AsyncMessageStream(call, use, partial(self._leave, use.address, stubs))

    def delay_after(self, error: SegueError, retry: RetryState) -> float:
        """Return the seconds to wait before the next try, or raise what ends the call."""
        if self._is_closed:
            raise error
        delay = retry.delay_after(error)
        if notice := retry.notice():
            LOGGER.warning(notice)
        return delay

    async def wait_after(self, error: SegueError, retry: RetryState) -> None:
        """Wait until the next try, or raise `error` if there are no retries left."""
        await sleep(self.delay_after(error, retry))

    async def close(self) -> None:
        """Close the channels; calls still running are cancelled."""
        with self._lock:
            self._is_closed = True
            self._take_over()
            for stubs in list(self._all_stubs):
                await stubs.channel.close()

    def _stubs_of(self, address: str) -> AsyncStubs:
        with self._lock:
            if self._is_closed:
                raise Cancelled("the client is closed")
            self._take_over()
            if address not in self._stubs:
                self._stubs[address] = AsyncStubs(self._channel(address))
                self._all_stubs.add(self._stubs[address])
            return self._stubs[address]

    def _take_over(self) -> None:
        """Leave the channels of another owner."""
        if self._owner.has_changed(list(self._all_stubs)):
            self._stubs = {}
            self._all_stubs = WeakSet()

    def _leave(self, address: str, stubs: AsyncStubs, error: SegueError) -> None:
        """Have the next call connect anew if nobody was there: the channel would refuse it for a while, untried."""
        if isinstance(error, ServerUnavailable) and not error.was_reached:
            with self._lock:
                if self._stubs.get(address) is stubs:
                    del self._stubs[address]

    def _channel(self, address: str) -> grpc.aio.Channel:
        options = channel_options(address, self.settings.max_message_bytes)
        if self.settings.credentials:
            return grpc.aio.secure_channel(address, self.settings.credentials, options)
        return grpc.aio.insecure_channel(address, options)
