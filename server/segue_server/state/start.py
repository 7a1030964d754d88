"""What calls go on from: nothing, a ticket or a session; and what becomes of a session behind them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from segue.v1 import common_pb2

from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.engine.sampling import Ids, Sampling
from segue_server.engine.sequence import State
from segue_server.errors import InvalidRequest, NotExact, SessionMoved
from segue_server.limits import LIMITS
from segue_server.runtime.registry import Served
from segue_server.state.session_record import Record, snapshot_distance
from segue_server.state.sessions import Sessions, StoredSession, check_position, key_digest
from segue_server.state.snapshot import Snapshot
from segue_server.state.tickets import TicketCodec
from segue_server.validation import check_at_most

_ANOTHER_REQUEST: Final = "request_key was used for another request; give each request its own"


class StartState:
    """The start of a call."""

    session = False
    """Whether the call advances a session."""
    repeated = False
    """Whether the session has seen this call before: it brings the same, and the session stays."""

    def __init__(self, snapshot: Snapshot | None, build: Build, here: Build, *, seed: int | None = None) -> None:
        """Go on `here` from a state of `build`; `seed` is for a text that begins, None: what the request says."""
        self.state: State | None = snapshot.state if snapshot else None
        """None: nothing was read."""
        self.sampling = snapshot.sampling if snapshot else Sampling()
        self.seed = snapshot.state.seed if snapshot else seed
        self.build = build
        """Where the state is from."""
        self.continuation = common_pb2.Continuation(
            exact=snapshot is None or build == here,
            sha256=here.sha256.hex(),
            host_class=here.host_class.hex(),
            position=snapshot.state.position if snapshot else 0,
        )

    @classmethod
    def nothing(cls, here: Build) -> "StartState":
        """Return the start of a text that begins."""
        return cls(None, here, here)

    @property
    def rewind(self) -> int:
        """How many symbols back the session must be able to go."""
        return 0

    def note(self, state: State, sampling: Sampling) -> None:
        """Take a state that the call came through, in case the session is to go back to it."""

    async def advance(self, state: State | None, ids: Ids, sampling: Sampling) -> None:
        """Have the session stand at `state`, `ids` behind the start; of a call without a session nothing happens.

        Raises SessionMoved where another call was faster, and StoreUnavailable.
        """


class _SessionStart(StartState):
    """The start of a call that advances a session."""

    session = True

    def __init__(self, held: StoredSession, request_key: str, sessions: Sessions, served: Served, tenant: str) -> None:
        record, key = held.record, key_digest(request_key)
        self.repeated = record.key_matches(key)
        start = record.before.snapshot if self.repeated and record.before else record.current
        super().__init__(start, record.build, served.build, seed=record.seed)
        if self.repeated and record.before and not record.before.exact:
            self.continuation.exact = False
        self._held = held
        self._key = key
        self._sessions = sessions
        self._served = served
        self._tenant = tenant
        self._noted: list[Snapshot] = []

    @property
    def rewind(self) -> int:
        return self._held.record.rewind

    def note(self, state: State, sampling: Sampling) -> None:
        noted = self._noted
        if noted and state.position < noted[-1].state.position + snapshot_distance(self.rewind):
            return
        noted.append(Snapshot(state, replace(sampling, bias=())))
        while len(noted) > 1 and noted[1].state.position <= state.position - self.rewind:
            del noted[0]

    async def advance(self, state: State | None, ids: Ids, sampling: Sampling) -> None:
        if self.repeated:
            self._check_repeated(state, self._held.record)
        elif state is not None and (len(ids) or self._held.record.current is None):
            await self._move(Snapshot(state, replace(sampling, bias=())), ids)

    async def _move(self, now: Snapshot, ids: Ids) -> None:
        moved = self._held.record.advanced(self._served.build, now, ids, self._noted, self._key)
        try:
            await self._sessions.replace(self._held, moved, self._served, self._tenant)
        except SessionMoved:
            found = await self._sessions.find(self._held.name, self._served, self._tenant)
            if not found.record.key_matches(self._key):
                raise
            self._check_repeated(now.state, found.record)  # this very call, on another server

    def _check_repeated(self, state: State | None, record: Record) -> None:
        if (state.position if state else 0) != record.position:
            raise InvalidRequest(_ANOTHER_REQUEST)


class StartResolver:
    """Finds the start of each call."""

    def __init__(self, office: TicketCodec, sessions: Sessions) -> None:
        self._office = office
        self._sessions = sessions

    async def resolve(self, start: common_pb2.Start, served: Served, tenant: str) -> StartState:
        """Return what `start` denotes; raises InvalidTicket, NotExact, and what sessions raise."""
        only_exact = start.exact if start.HasField("exact") else True
        match start.WhichOneof("from"):
            case "ticket":
                ticket = self._office.read(start.ticket, served, tenant)
                if only_exact:
                    check_exact(ticket.build, served)
                return StartState(ticket.snapshot, ticket.build, served.build)
            case "session":
                return await self._of_session(start.session, served, tenant, only_exact=only_exact)
            case _:
                return StartState.nothing(served.build)

    async def _of_session(
        self, reference: common_pb2.SessionReference, served: Served, tenant: str, *, only_exact: bool
    ) -> StartState:
        check_at_most("characters of request_key", len(reference.request_key), LIMITS.max_request_key)
        held = await self._sessions.find(reference.name, served, tenant)
        if only_exact and held.record.current is not None:
            check_exact(held.record.build, served)
        origin = _SessionStart(held, reference.request_key, self._sessions, served, tenant)
        if origin.repeated and only_exact and not origin.continuation.exact:
            raise InvalidRequest(_ANOTHER_REQUEST)
        if not origin.repeated:
            check_position(held, reference.position if reference.HasField("position") else None)
        return origin

    def tickets(self, origin: StartState, sampling: Sampling, served: Served, tenant: str) -> Callable[[State], bytes]:
        """Return what writes a state behind `origin` as a ticket, with how its text is being written."""
        kept = replace(sampling, bias=())

        def ticket(state: State) -> bytes:
            is_moved = origin.state is None or state.position != origin.state.position
            build = served.build if is_moved else origin.build  # where nothing was read, it is still that build's
            return self._office.write(Snapshot(state, kept), build, served.model, tenant)

        return ticket


def rewinding_marks(state: State, prefill_ids: Ids, origin: StartState, model: Model) -> tuple[int, ...]:
    """Return at which position of a text that is read on from `state` a session needs the state, to go back to it."""
    before_end = len(prefill_ids) - origin.rewind - model.symbols.longest + 1
    return (state.position + model.symbols.whole(prefill_ids, before_end),) if origin.rewind and before_end > 0 else ()


def check_exact(build: Build, served: Served) -> None:
    """Raise NotExact where `served` rounds differently from where a state comes from."""
    if build == served.build:
        return
    what = "another build of the model" if build.sha256 != served.build.sha256 else "another class of host"
    raise NotExact(f"the state is from {what}: this one rounds differently; let `exact` be false to go on all the same")
