"""segue.v1.SessionService."""

import secrets
import time
from dataclasses import dataclass, replace
from typing import Any

import grpc.aio
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from segue.v1 import common_pb2, session_pb2_grpc
from segue.v1 import session_pb2 as pb

from segue_server.api.services.streams import opened, read_to_end
from segue_server.api.tenants import tenant_of
from segue_server.engine.model import Model
from segue_server.engine.random_numbers import SEEDS
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import Sequence, State
from segue_server.errors import InvalidRequest, NotRewindable
from segue_server.limits import LIMITS
from segue_server.runtime.admission import Admission
from segue_server.runtime.registry import Registry, Served
from segue_server.state.session_record import Record
from segue_server.state.sessions import Sessions, StoredSession, check_position
from segue_server.state.snapshot import Snapshot
from segue_server.state.start import StartResolver, check_exact
from segue_server.state.tickets import TicketCodec
from segue_server.validation import check_at_most

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class IdleTimes:
    """For how many seconds a session is kept without being used."""

    default: int = 7 * 24 * 3600
    longest: int = 90 * 24 * 3600


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """Opens, forks, rewinds and closes sessions; what advances them are the other services."""

    def __init__(  # noqa: PLR0913, PLR0917 - what the service talks to
        self,
        registry: Registry,
        admission: Admission,
        starts: StartResolver,
        office: TicketCodec,
        sessions: Sessions,
        idle_times: IdleTimes,
    ) -> None:
        self._registry = registry
        self._admission = admission
        self._starts = starts
        self._office = office
        self._sessions = sessions
        self._idle_times = idle_times

    async def OpenSession(self, request: pb.OpenSessionRequest, context: _Context) -> pb.OpenSessionResponse:  # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model), tenant_of(context)
        if request.start.HasField("session"):
            raise InvalidRequest("start names a session; use ForkSession to make another one of it")
        check_at_most("rewind_characters", request.rewind_characters, LIMITS.max_rewind)
        check_at_most("idle_seconds", request.idle_seconds, self._idle_times.longest)
        origin = await self._starts.resolve(request.start, served, tenant)
        seed = request.seed if request.HasField("seed") else origin.seed
        seed = secrets.randbits(32) if seed is None else seed
        state = replace(origin.state, seed=seed) if origin.state else None
        record = Record(
            build=origin.build,
            rewind=request.rewind_characters * served.model.symbols.longest,
            idle_seconds=request.idle_seconds or self._idle_times.default,
            seed=seed,
            current=Snapshot(state, origin.sampling) if state else None,
        )
        [session] = await self._create([request.name], [record], served, tenant)
        return pb.OpenSessionResponse(session=session)

    async def GetSession(self, request: pb.GetSessionRequest, context: _Context) -> pb.GetSessionResponse:  # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model), tenant_of(context)
        held = await self._sessions.find(request.name, served, tenant)
        ticket = self._ticket(held.record, served, tenant) if request.return_ticket else b""
        session = _described(held.name, held.record, held.expiry, served.model)
        return pb.GetSessionResponse(session=session, ticket=ticket)

    async def ListSessions(self, request: pb.ListSessionsRequest, context: _Context) -> pb.ListSessionsResponse:  # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model), tenant_of(context)
        check_at_most("page_size", request.page_size, LIMITS.max_page)
        size = request.page_size or LIMITS.default_page
        found, last = await self._sessions.page(request.page_token, size, served, tenant)
        listed = [_described(held.name, held.record, held.expiry, served.model) for held in found]
        return pb.ListSessionsResponse(sessions=listed, next_page_token=last)

    async def ForkSession(self, request: pb.ForkSessionRequest, context: _Context) -> pb.ForkSessionResponse:  # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model), tenant_of(context)
        if not request.names:
            raise InvalidRequest('names is empty: send a name for each new session, or "" for one that is made up')
        check_at_most("number of names", len(request.names), LIMITS.max_forks)
        held = await self._find(request.session, served, tenant)
        records = [_forked(held.record, 1 + i) for i in range(len(request.names))]
        return pb.ForkSessionResponse(sessions=await self._create(list(request.names), records, served, tenant))

    async def RewindSession(self, request: pb.RewindSessionRequest, context: _Context) -> pb.RewindSessionResponse:  # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model), tenant_of(context)
        if not request.characters:
            raise InvalidRequest("characters is 0; send how many to take back, 1 or more")
        held = await self._find(request.session, served, tenant)
        check_exact(held.record.build, served)
        position = _position_before(held, request.characters, served.model)
        seed = request.seed if request.HasField("seed") else _seed(held.record)
        with self._admission.places(1):
            now = await _state_at(position, held.record, seed, served)
        rewound = held.record.rewound(now, seed)
        await self._sessions.replace(held, rewound, served, tenant)
        return pb.RewindSessionResponse(session=_just_written(held.name, rewound, served.model))

    async def CloseSession(self, request: pb.CloseSessionRequest, context: _Context) -> pb.CloseSessionResponse:  # noqa: N802
        """Answer one call; see the contract."""
        served, tenant = self._served(request.model), tenant_of(context)
        held = await self._find(request.session, served, tenant)
        await self._sessions.delete(held, served, tenant)
        return pb.CloseSessionResponse(ticket=self._ticket(held.record, served, tenant))

    def _served(self, model: common_pb2.ModelReference) -> Served:
        return self._registry.find(model.name, model.version)

    async def _find(self, reference: common_pb2.SessionReference, served: Served, tenant: str) -> StoredSession:
        held = await self._sessions.find(reference.name, served, tenant)
        check_position(held, reference.position if reference.HasField("position") else None)
        return held

    async def _create(self, names: list[str], records: list[Record], served: Served, tenant: str) -> list[pb.Session]:
        made = await self._sessions.create(names, records, served, tenant)
        return [_just_written(name, record, served.model) for name, record in zip(made, records, strict=True)]

    def _ticket(self, record: Record, served: Served, tenant: str) -> bytes:
        if record.current is None:
            return b""
        return self._office.write(record.current, record.build, served.model, tenant)


def _just_written(name: str, record: Record, model: Model) -> pb.Session:
    """Describe a session as it was written; by now, another call may have moved or closed it."""
    return _described(name, record, time.time() + record.idle_seconds, model)


def _described(name: str, record: Record, expiry: float, model: Model) -> pb.Session:
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
    """Return the session of another seed; it has repeated nothing yet."""
    seed = (_seed(record) + added) % SEEDS
    current = record.current
    if current is not None:
        current = replace(current, state=replace(current.state, seed=seed))
    return replace(record, seed=seed, current=current, before=None)


def _character_begins(ids: Ids, model: Model) -> Ids:
    """Return where in `ids` characters begin."""
    return np.flatnonzero(model.symbols.begins_V[ids])


def _position_before(held: StoredSession, characters: int, model: Model) -> int:
    """Return where the last `characters` of a session begin; raises NotRewindable."""
    record = held.record
    begins = _character_begins(record.tail, model)
    if characters > len(begins):
        raise NotRewindable(
            f"session {held.name!r} can go back by at most {len(begins):,} characters, not by {characters:,}"
        )
    return record.position - len(record.tail) + int(begins[-characters])


async def _state_at(position: int, record: Record, seed: int, served: Served) -> Snapshot | None:
    """Return the state at `position`, to which a session is rewound; None where nothing was read."""
    if position == 0 or record.current is None:
        return None
    state, ids = _last_known(position, record, served.model)
    if len(ids):
        with opened([Sequence(state, ids)], served.engine_thread) as [stream]:
            state = await read_to_end(stream)
    return Snapshot(replace(state, seed=seed), record.current.sampling)


def _last_known(position: int, record: Record, model: Model) -> tuple[State, Ids]:
    """Return a state before `position` that needs no reading, and the ids that lie between."""
    start, ids = record.start_of_rewinding(position)
    ended = np.flatnonzero(ids == model.symbols.end) if model.symbols.end is not None else ids[:0]
    if len(ended):  # behind a document, too, nothing was read
        at = int(ended[-1])
        fresh = State.after_first(int(ids[at]), model.state_shape, 0)
        return replace(fresh, position=position - len(ids) + at + 1), ids[at + 1 :]
    if start is None:
        return State.after_first(int(ids[0]), model.state_shape, 0), ids[1:]
    return start.state, ids
