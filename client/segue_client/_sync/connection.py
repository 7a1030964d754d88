"""The synchronous client's channels to its addresses, and calls over them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Protocol, TypeVar

import grpc

from segue_client.errors import Cancelled, SegueError, translate
from segue_client.protocol.addresses import Addresses
from segue_client.protocol.retry import RetryState
from segue_client.transport.channel import call_metadata, channel_options
from segue_client.transport.settings import ConnectionSettings
from segue_client.transport.stubs import Stubs

_Response = TypeVar("_Response")
_Received_co = TypeVar("_Received_co", covariant=True)


class ServerStream(Protocol[_Received_co]):
    """The part of a gRPC call that brings several messages which its reader needs."""

    def __next__(self) -> _Received_co: ...

    def cancel(self) -> object:
        """Give the call up."""


class MessageStream(Iterator[_Response]):
    """The messages of one call, as they come; it raises the errors of `segue_client.errors`."""

    def __init__(self, call: ServerStream[_Response], address: str) -> None:
        self._call = call
        self._address = address

    def __next__(self) -> _Response:
        with translated(self._address):
            return next(self._call)

    def cancel(self) -> None:
        """Give the call up, from any thread. Reading on raises Cancelled; after the end nothing happens."""
        self._call.cancel()


class Connection:
    """One channel to each address, made when it is needed. Any thread may use it."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.settings = settings
        self._addresses = Addresses(settings.target)
        self._metadata = call_metadata(settings.tenant)
        self._lock = Lock()
        self._channels: dict[str, tuple[grpc.Channel, Stubs]] = {}
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether its calls have been cancelled and there will be no more."""
        return self._is_closed

    def resumption(self, timeout: float | None, *, resume: bool | None = None) -> RetryState:
        """Return what a call that was given these does about its failures; None: as the client was told."""
        return self.settings.resumption(self._addresses, timeout, resume=resume)

    def unary(
        self, method: Callable[[Stubs], Callable[..., _Response]], request: object, resumption: RetryState
    ) -> _Response:
        """Make one call that may be repeated, until it succeeds or `resumption` gives up."""
        while True:
            try:
                with translated(resumption.address):
                    response = method(self._stubs(resumption.address))(
                        request, timeout=resumption.deadline.left, metadata=self._metadata
                    )
            except SegueError as error:
                self.wait_after(error, resumption)
            else:
                resumption.progressed()
                return response

    def stream(
        self,
        method: Callable[[Stubs], Callable[..., ServerStream[_Response]]],
        request: object,
        resumption: RetryState,
    ) -> MessageStream[_Response]:
        """Begin a call that brings several messages, where `resumption` says; it ends at the first failure.

        `request` is one message or an iterator of them.
        """
        address = resumption.address
        call = method(self._stubs(address))(request, timeout=resumption.deadline.left, metadata=self._metadata)
        return MessageStream(call, address)

    def wait_after(self, error: SegueError, resumption: RetryState) -> None:
        """Wait until the next try; raise `error` where there is to be none."""
        if self._is_closed:
            raise error
        time.sleep(resumption.delay_after(error))

    def close(self) -> None:
        """Close the channels; calls still running are cancelled."""
        with self._lock:
            self._is_closed = True
            for channel, _ in self._channels.values():
                channel.close()

    def _stubs(self, address: str) -> Stubs:
        with self._lock:
            if self._is_closed:
                raise Cancelled("the client is closed")
            if address not in self._channels:
                channel = self._channel(address)
                self._channels[address] = channel, Stubs(channel)
            return self._channels[address][1]

    def _channel(self, address: str) -> grpc.Channel:
        options = channel_options(address, self.settings.max_message_bytes)
        if self.settings.credentials:
            return grpc.secure_channel(address, self.settings.credentials, options)
        return grpc.insecure_channel(address, options)


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise the errors of a call to `address` as those of `segue_client.errors`."""
    try:
        yield
    except grpc.RpcError as error:
        raise translate(error, address) from error
