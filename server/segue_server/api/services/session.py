"""segue.v1.SessionService."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from segue.v1 import common_pb2, session_pb2_grpc
from segue.v1 import session_pb2 as pb

from segue_server.api.calls.call import Call
from segue_server.api.services.streams import prefill_to_end, running
from segue_server.api.start_message import read_start
from segue_server.engine.model import Model
from segue_server.engine.random_numbers import SEEDS
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import Sequence, State
from segue_server.errors import InvalidRequest, NotRewindable
from segue_server.limits import LIMITS
from segue_server.runtime.admission import Admission
from segue_server.runtime.registry import Registry, Served
from segue_server.runtime.shared import Shared
from segue_server.runtime.time_slices import Steps, in_slices
from segue_server.state.clock import CLOCK
from segue_server.state.session_record import Record
from segue_server.state.sessions import Sessions, StoredSession, check_position
from segue_server.state.snapshot import Snapshot
from segue_server.state.start import StartResolver, check_exact
from segue_server.state.tickets import TicketCodec
from segue_server.validation import check_at_most

_MOST_LISTINGS: Final = 32
"""A page of a thousand sessions takes some 0.1 s to unseal."""
_ASSURED_LISTINGS: Final = 4

_FEW_SESSIONS: Final = 16
"""Sessions that are listed at once."""


@dataclass(frozen=True)
class IdleTimes:
    """Seconds that an unused session is kept."""

    default: int = 7 * 24 * 3600
    longest: int = 90 * 24 * 3600


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """Opens, forks, rewinds and closes sessions. The other services advance them."""

    def __init__(  # noqa: PLR0913, PLR0917 - its collaborators
        self,
        registry: Registry,
        admission: Admission,
        start_resolver: StartResolver,
        ticket_codec: TicketCodec,
        sessions: Sessions,
        idle_times: IdleTimes,
    ) -> None:
        self._registry = registry
        self._admission = admission
        self._start_resolver = start_resolver
        self._ticket_codec = ticket_codec
        self._sessions = sessions
        self._idle_times = idle_times
        self._listings = Shared("listings of sessions at once", _MOST_LISTINGS, _ASSURED_LISTINGS)

    async def OpenSession(self, request: pb.OpenSessionRequest, call: Call) -> pb.OpenSessionResponse:  # type: ignore[override] # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model, call), call.tenant
        if request.start.HasField("session"):
            raise InvalidRequest("start names a session; use ForkSession to copy it")
        check_at_most("rewind_characters", request.rewind_characters, LIMITS.max_rewind)
        check_at_most("idle_seconds", request.idle_seconds, self._idle_times.longest)
        start = await self._start_resolver.resolve(read_start(request.start), served, tenant)
        seed = request.seed if request.HasField("seed") else start.seed
        seed = secrets.randbits(32) if seed is None else seed
        state = replace(start.state, seed=seed) if start.state else None
        record = Record(
            build=start.build,
            rewind=request.rewind_characters * served.model.symbols.longest,
            idle_seconds=request.idle_seconds or self._idle_times.default,
            seed=seed,
            current=Snapshot(state, start.sampling) if state else None,
        )
        [session] = await self._create([request.name], [record], served, tenant)
        return pb.OpenSessionResponse(session=session)

    async def GetSession(self, request: pb.GetSessionRequest, call: Call) -> pb.GetSessionResponse:  # type: ignore[override] # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model, call), call.tenant
        stored = await self._sessions.load(request.name, served, tenant)
        ticket = self._ticket(stored.record, served, tenant) if request.return_ticket else b""
        session = _session_message(stored.name, stored.record, stored.expiry, served.model)
        return pb.GetSessionResponse(session=session, ticket=ticket)

    async def ListSessions(self, request: pb.ListSessionsRequest, call: Call) -> pb.ListSessionsResponse:  # type: ignore[override] # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model, call), call.tenant
        check_at_most("page_size", request.page_size, LIMITS.max_page)
        check_at_most("length of page_token", len(request.page_token), LIMITS.max_page_token)
        size = request.page_size or LIMITS.default_page
        with self._listings.held(call.owner, 1):
            page, last = await self._sessions.page(request.page_token, size, served, tenant)
            response = pb.ListSessionsResponse(next_page_token=last)
            await in_slices(_add_sessions(response, page, served.model))
        return response

    async def ForkSession(self, request: pb.ForkSessionRequest, call: Call) -> pb.ForkSessionResponse:  # type: ignore[override] # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model, call), call.tenant
        if not request.names:
            raise InvalidRequest('names is empty: send a name for each new session, or "" for a random one')
        check_at_most("number of names", len(request.names), LIMITS.max_forks)
        stored = await self._load(request.session, served, tenant)
        records = [_forked(stored.record, 1 + i) for i in range(len(request.names))]
        return pb.ForkSessionResponse(sessions=await self._create(request.names, records, served, tenant))

    async def RewindSession(self, request: pb.RewindSessionRequest, call: Call) -> pb.RewindSessionResponse:  # type: ignore[override] # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model, call), call.tenant
        if not request.characters:
            raise InvalidRequest("characters is 0; send how many to remove, 1 or more")
        stored = await self._load(request.session, served, tenant)
        check_exact(stored.record.build, served)
        position = _position_before(stored, request.characters, served.model)
        seed = request.seed if request.HasField("seed") else _seed(stored.record)
        with self._admission.exactly(1, call.owner):
            snapshot = await _snapshot_at(position, stored.record, seed, served)
        rewound = stored.record.rewound(snapshot, seed)
        await self._sessions.replace(stored, rewound, served, tenant)
        return pb.RewindSessionResponse(session=_fresh_session_message(stored.name, rewound, served.model))

    async def CloseSession(self, request: pb.CloseSessionRequest, call: Call) -> pb.CloseSessionResponse:  # type: ignore[override] # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model, call), call.tenant
        stored = await self._load(request.session, served, tenant)
        await self._sessions.delete(stored, served, tenant)
        return pb.CloseSessionResponse(ticket=self._ticket(stored.record, served, tenant))

    def _served(self, model: common_pb2.ModelReference, call: Call) -> Served:
        return call.use(self._registry.find(model.name, model.version))

    async def _load(self, reference: common_pb2.SessionReference, served: Served, tenant: str) -> StoredSession:
        stored = await self._sessions.load(reference.name, served, tenant)
        check_position(stored, reference.position if reference.HasField("position") else None)
        return stored

    async def _create(
        self, names: Collection[str], records: list[Record], served: Served, tenant: str
    ) -> list[pb.Session]:
        made = await self._sessions.create(names, records, served, tenant)
        return [_fresh_session_message(name, record, served.model) for name, record in zip(made, records, strict=True)]

    def _ticket(self, record: Record, served: Served, tenant: str) -> bytes:
        if record.current is None:
            return b""
        return self._ticket_codec.encode(record.current, record.build, served.model, tenant)


def _add_sessions(response: pb.ListSessionsResponse, page: list[StoredSession], model: Model) -> Steps[None]:
    for number, stored in enumerate(page):
        if number >= _FEW_SESSIONS:
            yield
        response.sessions.append(_session_message(stored.name, stored.record, stored.expiry, model))


def _fresh_session_message(name: str, record: Record, model: Model) -> pb.Session:
    """Describe a session as this call wrote it; another call may have changed it since."""
    return _session_message(name, record, CLOCK.now() + record.idle_seconds, model)


def _session_message(name: str, record: Record, expiry: float, model: Model) -> pb.Session:
    return pb.Session(
        name=name,
        model=model.name,
        version=model.version,
        position=record.position,
        rewindable_count=len(_character_begins(record.tail, model)),
        expiry=Timestamp(seconds=int(expiry)),
        seed=_seed(record),
    )


def _seed(record: Record) -> int:
    return record.current.state.seed if record.current else record.seed


def _forked(record: Record, added: int) -> Record:
    """Return a copy of the session with another seed, and no latest call to repeat."""
    seed = (_seed(record) + added) % SEEDS
    current = record.current
    if current is not None:
        current = replace(current, state=replace(current.state, seed=seed))
    return replace(record, seed=seed, current=current, latest_call=None)


def _character_begins(ids: Ids, model: Model) -> Ids:
    """Return the positions in `ids` at which characters begin."""
    return np.flatnonzero(model.symbols.begins_V[ids])


def _position_before(stored: StoredSession, characters: int, model: Model) -> int:
    """Return the position before the last `characters` of a session; raises NotRewindable."""
    record = stored.record
    begins = _character_begins(record.tail, model)
    if characters > len(begins):
        raise NotRewindable(
            f"session {stored.name!r} can go back by at most {len(begins):,} characters, not by {characters:,}; "
            f"its rewind_characters, chosen when it is opened, is {record.rewind:,}"
        )
    return record.position - len(record.tail) + int(begins[-characters])


async def _snapshot_at(position: int, record: Record, seed: int, served: Served) -> Snapshot | None:
    """Return the snapshot at `position`, to which a session is rewound; None: nothing was read."""
    if position == 0 or record.current is None:
        return None
    state, ids = _nearest_state(position, record, served.model)
    if len(ids):
        with running([Sequence(state, ids)], served.engine) as [stream]:
            state = await prefill_to_end(stream)
    return Snapshot(replace(state, seed=seed), record.current.sampling)


def _nearest_state(position: int, record: Record, model: Model) -> tuple[State, Ids]:
    """Return the nearest known state up to `position`, and the ids from there."""
    snapshot, ids = record.nearest_snapshot(position)
    ended = np.flatnonzero(ids == model.symbols.end) if model.symbols.end is not None else ids[:0]
    if len(ended):  # a new document starts from the zero state
        at = int(ended[-1])
        fresh = State.after_first(int(ids[at]), model.state_shape, 0)
        return replace(fresh, position=position - len(ids) + at + 1), ids[at + 1 :]
    if snapshot is None:
        return State.after_first(int(ids[0]), model.state_shape, 0), ids[1:]
    return snapshot.state, ids
