"""Sessions, as the asynchronous client uses them."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar, Unpack

from segue.v1 import session_pb2

from segue_client._async.connection import AsyncConnection
from segue_client._async.generation import AsyncGeneration
from segue_client.errors import SessionExists, SessionNotFound
from segue_client.messages.generation_request import GenerationOptions
from segue_client.messages.score import Score
from segue_client.messages.score_request import TextOptions
from segue_client.messages.session import (
    SessionState,
    close_request,
    fork_names,
    fork_request,
    get_request,
    list_request,
    open_request,
    random_name,
    rewind_request,
    state_from,
)
from segue_client.protocol.generation import resumable_texts
from segue_client.protocol.session import SessionCursor
from segue_client.transport.stubs import AsyncStubs

_Response = TypeVar("_Response")


class AsyncSessionCalls(ABC):
    """What `AsyncClient` does with sessions."""

    _connection: AsyncConnection

    @abstractmethod
    async def score(
        self,
        text: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
        resume: bool | None = None,
        **options: Unpack[TextOptions],
    ) -> Score:
        """Score a text of any length."""

    async def open_session(  # noqa: PLR0913 - the fields of the request
        self,
        name: str = "",
        *,
        ticket: bytes | None = None,
        exact: bool = True,
        seed: int | None = None,
        idle_seconds: int = 0,
        rewind_characters: int = 0,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> "AsyncSession":
        """Have the server hold a state under a name.

        name                1 to 64 of A-Z a-z 0-9 . _ - that no session has; "" makes one up
        ticket              the state to begin with; None: nothing was read yet
        exact               whether only an exact continuation of it will do; see NotExact
        seed                of the texts that are written in it; None: the ticket's, or a new one
        idle_seconds        how long it is kept without being used; 0: the server's default
        rewind_characters   how many of the latest characters it shall be able to take back, 0 to 4,096
        model, version      "" is the server's only model, 0 its newest version

        Raises SessionExists; for a name of the caller's also where the client has repeated the call, because its
        connection broke, and the first try had opened the session: `session` finds it.
        """
        wanted = name or random_name()
        request = open_request(
            wanted,
            ticket=ticket,
            exact=exact,
            seed=seed,
            idle_seconds=idle_seconds,
            rewind_characters=rewind_characters,
            model=model,
            version=version,
        )
        try:
            response = await self._ask(lambda stubs: stubs.sessions.OpenSession, request, timeout)
        except SessionExists:
            if name:
                raise
            # Nobody else knows the name: a try of this very call was heard, and its answer lost.
            return await self.session(wanted, model=model, version=version, timeout=timeout)
        return AsyncSession(self, self._connection, state_from(response.session))

    async def session(
        self,
        name: str,
        *,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> "AsyncSession":
        """Find a session that somebody has opened; raises SessionNotFound."""
        response = await self._ask(lambda stubs: stubs.sessions.GetSession, get_request(name, model, version), timeout)
        return AsyncSession(self, self._connection, state_from(response.session))

    async def sessions(
        self,
        *,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> list["AsyncSession"]:
        """Return all the tenant's own sessions of one model, by name."""
        found: list[AsyncSession] = []
        resumption = self._connection.resumption(timeout)
        token: str | None = ""
        while token is not None:
            request = list_request(model, version, token)
            page = await self._connection.unary(lambda stubs: stubs.sessions.ListSessions, request, resumption)
            found += [AsyncSession(self, self._connection, state_from(session)) for session in page.sessions]
            token = page.next_page_token or None
        return found

    async def _ask(
        self,
        method: Callable[[AsyncStubs], Callable[..., Awaitable[_Response]]],
        request: object,
        timeout: float | None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> _Response:
        return await self._connection.unary(method, request, self._connection.resumption(timeout))


class AsyncSession:
    """A state that the server holds under a name; its client need not hold anything.

    async with AsyncClient("127.0.0.1:50051") as client:
        session = await client.open_session("story", rewind_characters=200)
        generation = await session.generate("Once upon a time")
        print(await generation.text())

    In all else it is a `segue_client.Session`.
    """

    def __init__(self, client: AsyncSessionCalls, connection: AsyncConnection, state: SessionState) -> None:
        self._client = client
        self._connection = connection
        self._in_use = SessionCursor(state)

    @property
    def name(self) -> str:
        """Its name."""
        return self._in_use.state.name

    @property
    def model(self) -> str:
        """The model that it belongs to."""
        return self._in_use.state.model

    @property
    def version(self) -> int:
        """The version of the model."""
        return self._in_use.state.version

    @property
    def position(self) -> int:
        """The number of symbols behind its state, as far as this object knows; 0: nothing was read yet."""
        return self._in_use.state.position

    @property
    def rewindable_count(self) -> int:
        """How many characters `rewind` could take back when the server was last asked, by `refresh` for example."""
        return self._in_use.state.rewindable_count

    @property
    def expiry(self) -> datetime:
        """When it expires unless it is used before, as of when the server was last asked."""
        return self._in_use.state.expiry

    @property
    def seed(self) -> int:
        """The seed that texts written in it use unless they have their own, as of when the server was last asked."""
        return self._in_use.state.seed

    async def generate(
        self,
        prompt: str = "",
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
        resume: bool | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncGeneration:
        """Continue the session, with the options of `Client.generate`; it advances when the text has ended."""
        texts = resumable_texts(
            prompt, resume=self._connection.settings.resumes(resume), **self._in_use.generation_options(options)
        )
        generation = await AsyncGeneration.open(texts, self._connection, timeout, resume=resume)
        self._in_use.goes_on_with(texts)
        return generation

    async def score(
        self,
        text: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
        resume: bool | None = None,
        **options: Unpack[TextOptions],
    ) -> Score:
        """Score `text` and have the session stand behind it, with the options of `Client.score`."""
        score = await self._client.score(text, timeout=timeout, resume=resume, **self._in_use.text_options(options))
        self._in_use.stands_at(score.position)
        return score

    async def fork(
        self,
        names: int | Sequence[str] = 1,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> list["AsyncSession"]:
        """Make sessions that stand where this one does, each with a seed of its own: so many, or with these names.

        Raises SessionExists where one of the names is taken; as in `open_session`, it may be by a first try.
        """
        wanted = fork_names(names)
        try:
            response = await self._ask(
                lambda stubs: stubs.sessions.ForkSession, fork_request(self._in_use.state, wanted), timeout
            )
        except SessionExists:
            if not isinstance(names, int):
                raise
            # Nobody else knows the names: a try of this very call was heard, and its answer lost.
            return [await self._client.session(name, model=self.model, version=self.version) for name in wanted]
        return [AsyncSession(self._client, self._connection, state_from(session)) for session in response.sessions]

    async def rewind(
        self,
        characters: int,
        *,
        seed: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> None:
        """Take back the last characters; with the old seed (None) the same would be written again.

        Raises NotRewindable where that is further than the session remembers; SessionMoved also where the client has
        repeated the call, because its connection broke, and the first try had rewound the session: `refresh` tells.
        """
        request = rewind_request(self._in_use.state, characters, seed)
        response = await self._ask(lambda stubs: stubs.sessions.RewindSession, request, timeout)
        self._in_use = SessionCursor(state_from(response.session))

    async def ticket(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> bytes | None:
        """Return a ticket to the state, wherever the session stands; None where nothing was read yet."""
        return (await self._get(timeout, return_ticket=True)).ticket or None

    async def refresh(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> None:
        """Ask the server where the session stands, whoever has used it."""
        self._in_use = SessionCursor(state_from((await self._get(timeout)).session))

    async def close(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> bytes | None:
        """End the session; return a ticket to its last state, None where nothing was read."""
        # Were the ticket to come with the end alone, and its answer be lost, nobody would have the state.
        ticket = await self.ticket(timeout=timeout)
        with suppress(SessionNotFound):  # a try of this very call was heard, and its answer lost
            await self._ask(lambda stubs: stubs.sessions.CloseSession, close_request(self._in_use.state), timeout)
        return ticket

    async def _get(
        self,
        timeout: float | None,  # noqa: ASYNC109 - a deadline that the server knows too
        *,
        return_ticket: bool = False,
    ) -> session_pb2.GetSessionResponse:
        request = get_request(self.name, self.model, self.version, return_ticket=return_ticket)
        return await self._ask(lambda stubs: stubs.sessions.GetSession, request, timeout)

    async def _ask(
        self,
        method: Callable[[AsyncStubs], Callable[..., Awaitable[_Response]]],
        request: object,
        timeout: float | None,  # noqa: ASYNC109 - a deadline that the server knows too
    ) -> _Response:
        return await self._connection.unary(method, request, self._connection.resumption(timeout))
