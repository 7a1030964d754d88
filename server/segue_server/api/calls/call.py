"""One call: whose it is, what it holds of the server's memory, and its ends of the two streams of messages.

Memory is taken before a message is read, and given back when the reply has left for the client, or when the client had
its time to read it. A message that arrives at once is charged by its length. One that is slow to arrive is charged the
most that it may have, since gRPC buffers it without telling how much there is.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc.aio
from google.protobuf.message import Message

from segue_server.api.calls.call_tasks import abandon, current_task
from segue_server.api.calls.status import Status
from segue_server.api.calls.tenants import tenant_of
from segue_server.api.calls.wire_bounds import parse
from segue_server.api.parted_message import Parts
from segue_server.errors import InvalidRequest, RequestError, Stalled, Stopping
from segue_server.limits import MethodLimits
from segue_server.runtime.admission import Admission
from segue_server.runtime.backlog import TURN, Backlog, nothing_expected
from segue_server.runtime.owner import NOBODY, Owner
from segue_server.runtime.registry import Served
from segue_server.runtime.shared import Holding
from segue_server.runtime.time_slices import in_slices
from segue_server.telemetry.rate_limited_log import client_faults

M = TypeVar("M", bound=Message)

CALL_BYTES: Final = 2**15
"""What a call takes without its messages: gRPC's and asyncio's objects, and what gRPC buffers unasked."""

_LONG_MESSAGE_BYTES: Final = 2**20
"""gRPC takes some milliseconds to hand out a longer one: others get their turn before it is parsed."""
_PAUSE_SECONDS: Final = 0.001
_SLOW_SECONDS: Final = 0.1
"""A request that takes longer to arrive is charged the most that it may have."""
WAITING_CHECK_SECONDS: Final = 1.0
"""Between two looks at a stream whose client sends nothing."""
_STATUS_SECONDS: Final = 5.0
"""For a client that did not read its stream to take what is under way, and the status."""


@dataclass(frozen=True)
class Patience:
    """Seconds that the server waits for a client."""

    request: float = 30.0
    """For a request to arrive."""
    reply: float = 60.0
    """For a message to be read."""
    idle: float = 300.0
    """For the next piece of a streamed text."""
    longest: float | None = None
    """For a stream to end by itself; None: any time."""


def client_of(context: grpc.aio.ServicerContext[Any, Any], admission: Admission) -> tuple[Owner, float | None]:
    """Return whose call it is, and its seconds left; None: no deadline. Raises InvalidRequest for a bad tenant."""
    time_left = context.time_remaining()
    return Owner(context.peer(), tenant_of(context), admission.is_patient(time_left)), time_left


class Call:
    """A call of one of segue's own services."""

    def __init__(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        limits: MethodLimits,
        admission: Admission,
        backlogs: Sequence[Backlog],
        patience: Patience,
    ) -> None:
        """`backlogs`: of the engines that the call may need."""
        self.owner = NOBODY
        """Known once the call has entered."""
        self._context = context
        self._limits = limits
        self._admission = admission
        self._backlogs = backlogs
        self._patience = patience
        self._began = time.monotonic()
        self._time_left: float | None = None
        """Seconds until the deadline, when the call began; None: it has none."""
        self._memory = Holding(admission.memory, NOBODY)
        self._settle: Callable[[], None] = nothing_expected
        self._message_bytes = 0
        self._kept_bytes = 0
        self._free = asyncio.Lock()
        self._sent = False
        self._writing = False

    @property
    def tenant(self) -> str:
        """Tenants cannot use each other's tickets, sessions and cached prefixes."""
        return self.owner.tenant

    @property
    def duration_left(self) -> float | None:
        """Seconds that a stream may go on; None: any time."""
        longest = self._patience.longest
        return None if longest is None else max(0.0, longest - (time.monotonic() - self._began))

    def enter(self) -> None:
        """Take what every call takes, until the call has ended; raises Overloaded, and InvalidRequest for a bad tenant.

        Nothing is read for this.
        """
        admission = self._admission
        self.owner, self._time_left = client_of(self._context, admission)
        if self._limits.uses_engine:
            self._settle = admission.let_in(self._backlogs, self.owner, self._time_left)
        else:
            admission.check_memory()
        self._memory = memory = Holding(admission.memory, self.owner)

        def give_back(_: object) -> None:
            self._settle()
            memory.hold(0)

        current_task().add_done_callback(give_back)
        memory.hold(CALL_BYTES)

    def use(self, served: Served) -> Served:
        """Return the model for this call alone; raises Overloaded if its engine cannot serve the call in time."""
        if self._limits.uses_engine and len(self._backlogs) > 1:
            self._admission.check_wait(served.engine_thread.backlog, self.owner, self._time_left)
            self._settle()
            self._settle = served.engine_thread.backlog.expect(self.owner)
        return served.shared_by(self.owner, self._settle)

    def check_text(self, served: Served, symbols: int) -> None:
        """Raise Overloaded if the engine has too much to do for a call with `symbols` to read, which are known now."""
        if symbols > TURN:
            time_left = self._context.time_remaining()
            self._admission.check_wait(served.engine_thread.backlog, self.owner, time_left, symbols)

    def hold(self, extra: int) -> None:
        """Hold `extra` bytes beside those of the call, what it keeps and its latest message; raises Overloaded."""
        self._memory.hold(CALL_BYTES + self._kept_bytes + self._message_bytes + extra)

    def keep(self, nbytes: int) -> None:
        """Hold `nbytes` more until the call ends; raises Overloaded."""
        self._kept_bytes += nbytes
        self.hold(0)

    def drop_message(self) -> None:
        """Note that nothing of the latest message is needed any more, except for what the call keeps."""
        self._message_bytes = 0
        self.hold(0)

    def hold_largest(self) -> None:
        """Hold what the largest message of the method takes to arrive; raises Overloaded."""
        self.hold(min(self._limits.message_bytes, self._admission.memory.total // 4))

    async def read(self, message: type[M]) -> M | None:
        """Return the client's first message, None if there is none; raises Stalled, Overloaded and InvalidRequest."""
        arrival = _Arrival(self, self._patience.request)
        try:
            data = await self._context.read()
        except asyncio.CancelledError:
            arrival.raise_failure()
            raise
        finally:
            arrival.end()
            del arrival  # it refers to the task, a task to its error, and an error to this frame
        return await self._parsed(data, message)

    def settle(self) -> None:
        """Expect no work of this call before it opens a sequence."""
        self._settle()

    def check_duration(self) -> None:
        """Raise Stopping if the stream has lasted too long."""
        if self.duration_left == 0:
            raise Stopping(
                f"the stream has lasted for {self._patience.longest:g} seconds, as long as any may here; continue from "
                "its last ticket"
            )

    def check_waiting(self, seconds: float) -> None:
        """Raise Stalled if a client has sent nothing for too many `seconds`, or Overloaded if memory is short."""
        self.check_duration()
        if seconds > self._patience.idle:
            raise Stalled(
                f"no text arrived for {self._patience.idle:g} seconds; continue from the last ticket when there is some"
            )
        self._admission.check_memory()

    async def read_next(self, message: type[M]) -> M | None:
        """Return the client's next message, None after the last, however long it takes; raises as `read` does."""
        return await self._parsed(await self._context.read(), message)

    async def _parsed(self, data: Any, message: type[M]) -> M | None:
        if data is grpc.aio.EOF:
            return None
        if len(data) > self._limits.message_bytes:
            raise InvalidRequest(
                f"the request has {len(data):,} bytes; this method takes at most {self._limits.message_bytes:,}: "
                "send less, or several requests"
            )
        self._message_bytes = len(data) * self._limits.memory_factor
        self.hold(0)
        if len(data) > _LONG_MESSAGE_BYTES:
            await asyncio.sleep(_PAUSE_SECONDS)
        return await in_slices(parse(data, message), begins=self.owner)

    async def write(self, message: Message | Parts) -> None:
        """Send one message; raises Stalled if the client makes no room for it. Any number of tasks may write."""
        data = _serialized(message)
        async with self._free:
            self._writing = True
            try:
                async with asyncio.timeout(self._patience.reply):
                    await self._context.write(data)
            except TimeoutError:
                raise Stalled(
                    f"the stream was not read for {self._patience.reply:g} seconds; "
                    "read it, or continue from its last ticket"
                ) from None
            self._sent, self._writing = True, False

    def reply(self, message: Message | Parts) -> bytes:
        """Return the only reply of the call, for gRPC to send. It is charged until the client has read it."""
        data = _serialized(message)
        self._memory.hold_anyway(CALL_BYTES + len(data))  # what was done for it cannot be undone
        return data

    def end(self, failure: Status | None) -> None:
        """Let gRPC end the call, with a status that tells the failure, if any; raises CancelledError if it cannot."""
        if failure is not None:
            # Not by `abort`: the error that it raises would keep the frames of the call alive, and they the error.
            self._context.set_code(failure.code)
            self._context.set_details(failure.text)
            self._context.set_trailing_metadata(failure.metadata)
        handler = current_task()
        if self._writing and not self._sent:
            # The message that is stuck carries the call's metadata: no status can be sent.
            _give_up(handler)
            raise asyncio.CancelledError
        seconds = _STATUS_SECONDS if self._writing else self._patience.reply
        timer = asyncio.get_running_loop().call_later(seconds, _give_up, handler)
        handler.add_done_callback(lambda _: timer.cancel())


def _serialized(message: Message | Parts) -> bytes:
    return b"".join(message) if isinstance(message, list) else message.SerializeToString()


def _give_up(handler: "asyncio.Task[Any]") -> None:
    client_faults.warn("unread", "a client does not read what was sent to it; its call was reset")
    abandon(handler)


class _Arrival:
    """The time that a request takes to arrive: after some, it is charged as the largest; after more, the call fails."""

    def __init__(self, call: Call, time_limit: float) -> None:
        self._call = call
        self._time_limit = time_limit
        self._task = current_task()
        self._failure: RequestError | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_SLOW_SECONDS, self._charge)

    def _charge(self) -> None:
        self._call.settle()
        try:
            self._call.hold_largest()
        except RequestError as error:
            self._fail(error)
            return
        rest = max(0.0, self._time_limit - _SLOW_SECONDS)
        self._timer = self._loop.call_later(rest, self._fail, _not_arrived(self._time_limit))

    def _fail(self, failure: RequestError) -> None:
        self._failure = failure
        self._task.cancel()

    def raise_failure(self) -> None:
        """Raise what made this end the wait, if it did."""
        if self._failure is None:
            return
        self._task.uncancel()
        try:
            raise self._failure from None
        finally:
            self._failure = None  # an error refers to the frames that it came through, and they refer to this

    def end(self) -> None:
        """Forget the time."""
        self._timer.cancel()


def _not_arrived(seconds: float) -> Stalled:
    return Stalled(f"the request did not arrive within {seconds:g} seconds; send it again, in one go")
