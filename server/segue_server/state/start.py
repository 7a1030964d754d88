"""What a call continues from (nothing, a ticket or a session), and how it advances its session."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.engine.sampling import Ids, Sampling
from segue_server.engine.sequence import State
from segue_server.errors import InvalidRequest, NotExact, SessionMoved
from segue_server.runtime.registry import Served
from segue_server.state.session_record import Record, snapshot_distance
from segue_server.state.sessions import Sessions, StoredSession, check_position, key_digest
from segue_server.state.snapshot import Snapshot
from segue_server.state.tickets import TicketCodec

_ANOTHER_REQUEST: Final = "request_key was used for another request; give each request its own"


@dataclass(frozen=True, slots=True)
class SessionReference:
    """A session, as a call names it."""

    name: str
    position: int | None
    """Where the caller expects the session; None: anywhere."""
    request_key: str
    """Identifies repetitions of a call; "": none."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a call asks to continue from: a ticket, a session, or else the zero state."""

    only_exact: bool
    """Whether to refuse a state that this host would continue with other roundings."""
    ticket: bytes | None = None
    session: SessionReference | None = None


class StartState:
    """The start of a call."""

    is_session = False
    """Whether the call advances a session."""
    is_repeated = False
    """Whether the session's latest call was this one: the results are the same, and the session stays as it is."""

    def __init__(self, snapshot: Snapshot | None, build: Build, here: Build, *, seed: int | None = None) -> None:
        """Continue a state of `build` on `here`. `seed`: for a text that begins; None: the request's."""
        self.state: State | None = snapshot.state if snapshot else None
        """None: nothing was read."""
        self.sampling = snapshot.sampling if snapshot else Sampling()
        self.seed = snapshot.state.seed if snapshot else seed
        self.build = build
        """Of the state."""
        self.exact = snapshot is None or build == here
        """Whether the continuation is, to the bit, that of the state's own host."""

    @classmethod
    def nothing(cls, here: Build) -> "StartState":
        """Return the start of a text that begins."""
        return cls(None, here, here)

    @property
    def rewind(self) -> int:
        """How many symbols back the session must be able to go."""
        return 0

    def note(self, state: State, sampling: Sampling) -> None:
        """Remember a state that the call passed, so that the session can be rewound to it."""

    async def advance(self, state: State | None, ids: Ids, sampling: Sampling) -> None:
        """Move the session to `state`, `ids` after the start. Without a session, do nothing.

        Raises SessionMoved if another call was faster, and StoreUnavailable.
        """


class _SessionStart(StartState):
    """The start of a call that advances a session."""

    is_session = True

    def __init__(
        self, stored: StoredSession, request_key: str, sessions: Sessions, served: Served, tenant: str
    ) -> None:
        record, key = stored.record, key_digest(request_key)
        self.is_repeated = record.key_matches(key)
        latest_call = record.latest_call if self.is_repeated else None
        snapshot = latest_call.snapshot if latest_call else record.current
        super().__init__(snapshot, record.build, served.build, seed=record.seed)
        self.exact = self.exact and (latest_call is None or latest_call.exact)
        self._stored = stored
        self._key = key
        self._sessions = sessions
        self._served = served
        self._tenant = tenant
        self._noted: list[Snapshot] = []

    @property
    def rewind(self) -> int:
        return self._stored.record.rewind

    def note(self, state: State, sampling: Sampling) -> None:
        noted = self._noted
        if noted and state.position < noted[-1].state.position + snapshot_distance(self.rewind):
            return
        noted.append(Snapshot.of(state, sampling))
        while len(noted) > 1 and noted[1].state.position <= state.position - self.rewind:
            del noted[0]

    async def advance(self, state: State | None, ids: Ids, sampling: Sampling) -> None:
        if self.is_repeated:
            self._check_repeated(state, self._stored.record)
        elif state is not None and (len(ids) or self._stored.record.current is None):
            await self._move(Snapshot.of(state, sampling), ids)

    async def _move(self, snapshot: Snapshot, ids: Ids) -> None:
        moved = self._stored.record.advanced(self._served.build, snapshot, ids, self._noted, self._key)
        try:
            await self._sessions.replace(self._stored, moved, self._served, self._tenant)
        except SessionMoved:
            stored = await self._sessions.load(self._stored.name, self._served, self._tenant)
            if not stored.record.key_matches(self._key):
                raise
            self._check_repeated(snapshot.state, stored.record)  # this same call, on another server

    def _check_repeated(self, state: State | None, record: Record) -> None:
        if (state.position if state else 0) != record.position:
            raise InvalidRequest(_ANOTHER_REQUEST)


class StartResolver:
    """Resolves a request's start to a state."""

    def __init__(self, ticket_codec: TicketCodec, sessions: Sessions) -> None:
        self._ticket_codec = ticket_codec
        self._sessions = sessions

    async def resolve(self, request: StartRequest, served: Served, tenant: str) -> StartState:
        """Return the state that `request` denotes; raises InvalidTicket, NotExact, and what `Sessions.load` raises."""
        if request.ticket is not None:
            ticket = self._ticket_codec.decode(request.ticket, served, tenant)
            if request.only_exact:
                check_exact(ticket.build, served)
            return StartState(ticket.snapshot, ticket.build, served.build)
        if request.session is not None:
            return await self._of_session(request.session, served, tenant, only_exact=request.only_exact)
        return StartState.nothing(served.build)

    async def _of_session(
        self, reference: SessionReference, served: Served, tenant: str, *, only_exact: bool
    ) -> StartState:
        stored = await self._sessions.load(reference.name, served, tenant)
        if only_exact and stored.record.current is not None:
            check_exact(stored.record.build, served)
        start = _SessionStart(stored, reference.request_key, self._sessions, served, tenant)
        if start.is_repeated and only_exact and not start.exact:
            raise InvalidRequest(_ANOTHER_REQUEST)
        if not start.is_repeated:
            check_position(stored, reference.position)
        return start

    def tickets(self, start: StartState, sampling: Sampling, served: Served, tenant: str) -> Callable[[State], bytes]:
        """Return a function from a state after `start` to its ticket, which keeps `sampling`."""

        def ticket(state: State) -> bytes:
            is_moved = start.state is None or state.position != start.state.position
            build = served.build if is_moved else start.build  # the start state itself is still its own build's
            return self._ticket_codec.encode(Snapshot.of(state, sampling), build, served.model, tenant)

        return ticket


def rewinding_marks(state: State, prefill_ids: Ids, start: StartState, model: Model) -> tuple[int, ...]:
    """Return the position in a text after `state` at which a session needs the state for rewinding, if any."""
    before_end = len(prefill_ids) - start.rewind - model.symbols.longest + 1
    return (state.position + model.symbols.whole(prefill_ids, before_end),) if start.rewind and before_end > 0 else ()


def check_exact(build: Build, served: Served) -> None:
    """Raise NotExact if `served` rounds differently from the host that a state is from."""
    if build == served.build:
        return
    what = "another build of the model" if build.sha256 != served.build.sha256 else "another class of host"
    raise NotExact(f"the state is from {what}: this one rounds differently; send `exact` as false to continue anyway")
