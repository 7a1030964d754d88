"""Sessions, as an AsyncClient uses them."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Unpack

from segue.v1 import session_pb2

from segue_client._async.connection import AsyncConnection
from segue_client._async.generation import AsyncGeneration
from segue_client._async.scoring import AsyncScoringCalls
from segue_client.errors import SessionExists, SessionNotFound
from segue_client.messages.generation_request import GenerationKeywords
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


class AsyncSessionCalls(AsyncScoringCalls):
    """The session methods of `AsyncClient`."""

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
        timeout: float | None = None,
    ) -> "AsyncSession":
        """Have the server keep a state under a name.

        name                1 to 64 of A-Z a-z 0-9 . _ - that no session has; "" makes a random name
        ticket              the state to begin with; None: the zero state
        exact               whether to accept only an exact continuation of the ticket; see NotExact
        seed                the seed of texts written in the session; None: the ticket's, or a new one
        idle_seconds        how long an unused session is kept; 0: the server's default
        rewind_characters   how many of the latest characters can be taken back, 0 to 4,096
        model, version      "" is the server's only model, 0 its newest version

        Raises SessionExists if the name is taken. That may be by this very call: the client repeats it after a broken
        connection, and the first try may have opened the session; `session` returns it.
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
            response = await self._connection.ask(
                lambda stubs: stubs.sessions.OpenSession, request, timeout, in_session=True
            )
        except SessionExists:
            if name:
                raise
            # Nobody else knows the name: an earlier try of this call succeeded, and its response was lost.
            return await self.session(wanted, model=model, version=version, timeout=timeout)
        return AsyncSession(self, self._connection, state_from(response.session))

    async def session(
        self,
        name: str,
        *,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
    ) -> "AsyncSession":
        """Return an open session, or raise SessionNotFound."""
        response = await self._connection.ask(
            lambda stubs: stubs.sessions.GetSession, get_request(name, model, version), timeout, in_session=True
        )
        return AsyncSession(self, self._connection, state_from(response.session))

    async def sessions(
        self,
        *,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
    ) -> list["AsyncSession"]:
        """Return all sessions of the tenant with one model, by name."""
        found: list[AsyncSession] = []
        retry = self._connection.retry_state(timeout, in_session=True)
        token: str | None = ""
        while token is not None:
            request = list_request(model, version, token)
            page = await self._connection.unary(lambda stubs: stubs.sessions.ListSessions, request, retry)
            found += [AsyncSession(self, self._connection, state_from(session)) for session in page.sessions]
            token = page.next_page_token or None
        return found


class AsyncSession:
    """A state that the server keeps under a name, so that the client keeps nothing.

        async with AsyncClient("127.0.0.1:50051") as client:
            session = await client.open_session("story", rewind_characters=200)
            generation = await session.generate("Once upon a time")
            print(await generation.text())
            await session.rewind(100, seed=2)
            generation = await session.generate()
            print(await generation.text())

    Each call says at which position it expects the session. If another caller has moved the session, the call raises
    SessionMoved and has no effect: `refresh`, and decide again. A text or a score that the client repeats after a
    broken connection advances the session once; `fork` and `rewind` say what happens to them.
    """

    def __init__(self, client: AsyncSessionCalls, connection: AsyncConnection, state: SessionState) -> None:
        self._client = client
        self._connection = connection
        self._cursor = SessionCursor(state)

    @property
    def name(self) -> str:
        """The name of the session."""
        return self._cursor.state.name

    @property
    def model(self) -> str:
        """The name of its model."""
        return self._cursor.state.model

    @property
    def version(self) -> int:
        """The version of its model."""
        return self._cursor.state.version

    @property
    def position(self) -> int:
        """The number of symbols read and written, as far as this object knows; 0: the zero state."""
        return self._cursor.state.position

    @property
    def rewindable_count(self) -> int:
        """How many characters `rewind` can take back, as of the last response of the server; see `refresh`."""
        return self._cursor.state.rewindable_count

    @property
    def expiry(self) -> datetime:
        """When the session expires if it is not used, as of the last response of the server."""
        return self._cursor.state.expiry

    @property
    def seed(self) -> int:
        """The seed of texts that bring none of their own, as of the last response of the server."""
        return self._cursor.state.seed

    async def generate(
        self,
        prompt: str = "",
        *,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[GenerationKeywords],
    ) -> AsyncGeneration:
        """Continue the session, with the options of `AsyncClient.generate`; it advances when the text has ended."""
        texts = resumable_texts(
            prompt, self._cursor.generation_options(options), resume=self._connection.settings.resumes(resume)
        )
        generation = await AsyncGeneration.start(texts, self._connection, timeout, resume=resume)
        self._cursor.track(texts)
        return generation

    async def score(
        self,
        text: str,
        *,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[TextOptions],
    ) -> Score:
        """Score `text` and advance the session by it, with the options of `AsyncClient.score`."""
        score = await self._client.score(text, timeout=timeout, resume=resume, **self._cursor.text_options(options))
        self._cursor.move_to(score.position)
        return score

    async def fork(self, names: int | Sequence[str] = 1, *, timeout: float | None = None) -> list["AsyncSession"]:
        """Fork this session. `names`: how many forks, or their names. Each gets its own seed.

        Raises SessionExists if a name is taken; as in `open_session`, that may be by this very call.
        """
        wanted = fork_names(names)
        try:
            response = await self._connection.ask(
                lambda stubs: stubs.sessions.ForkSession,
                fork_request(self._cursor.state, wanted),
                timeout,
                in_session=True,
            )
        except SessionExists:
            if not isinstance(names, int):
                raise
            # Nobody else knows the names: an earlier try of this call succeeded, and its response was lost.
            return [await self._client.session(name, model=self.model, version=self.version) for name in wanted]
        return [AsyncSession(self._client, self._connection, state_from(session)) for session in response.sessions]

    async def rewind(self, characters: int, *, seed: int | None = None, timeout: float | None = None) -> None:
        """Take back the last characters. With the old seed (None) the same text would be written again.

        Raises NotRewindable beyond `rewindable_count`. SessionMoved may be due to this very call: the client repeats it
        after a broken connection, and the first try may have rewound the session; `refresh` shows it.
        """
        request = rewind_request(self._cursor.state, characters, seed)
        response = await self._connection.ask(
            lambda stubs: stubs.sessions.RewindSession, request, timeout, in_session=True
        )
        self._cursor = SessionCursor(state_from(response.session))

    async def ticket(self, *, timeout: float | None = None) -> bytes | None:
        """Return a ticket for the current state, even if another client moved the session; None for the zero state."""
        response = await self._get(timeout, return_ticket=True)
        return response.ticket or None

    async def refresh(self, *, timeout: float | None = None) -> None:
        """Ask the server for the current position, which another client may have changed."""
        response = await self._get(timeout)
        self._cursor = SessionCursor(state_from(response.session))

    async def close(self, *, timeout: float | None = None) -> bytes | None:
        """End the session; return a ticket for its last state, None for the zero state."""
        # If the response that ends the session brought the ticket, losing it would lose the state.
        ticket = await self.ticket(timeout=timeout)
        with suppress(SessionNotFound):  # an earlier try of this call succeeded
            await self._connection.ask(
                lambda stubs: stubs.sessions.CloseSession, close_request(self._cursor.state), timeout, in_session=True
            )
        return ticket

    async def _get(self, timeout: float | None, *, return_ticket: bool = False) -> session_pb2.GetSessionResponse:
        request = get_request(self.name, self.model, self.version, return_ticket=return_ticket)
        return await self._connection.ask(lambda stubs: stubs.sessions.GetSession, request, timeout, in_session=True)
