"""What the asynchronous client can have scored."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Unpack

from segue_client._async.concurrency import in_order
from segue_client._async.connection import AsyncConnection
from segue_client._async.score_stream import AsyncScoreStream
from segue_client.errors import InvalidRequest
from segue_client.messages.candidates import Ranking, ranking_from
from segue_client.messages.score import Score, scores_from
from segue_client.messages.score_request import (
    CandidateRanking,
    ReadingOptions,
    ScoreSettings,
    TextOptions,
    TextsOptions,
    candidates_request,
    score_request,
    score_settings,
    text_settings,
)
from segue_client.protocol.batching import JOBS, ScoredGroup, async_groups, rename_in_error
from segue_client.protocol.retry import RetryState
from segue_client.protocol.score_stream import StreamScoring, collected


class AsyncScoringCalls:
    """The scoring methods of `AsyncClient`."""

    _connection: AsyncConnection

    async def score(
        self,
        text: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
        resume: bool | None = None,
        **options: Unpack[TextOptions],
    ) -> Score:
        """Score a text of any length, as `Client.score` does."""
        settings = text_settings(**options)
        resumption = self._connection.resumption(timeout, resume=resume)
        if not settings.fits(text):
            return await self._score_streamed(text, settings, resumption)
        [score] = await self._score_at_once([text], settings, resumption)
        return score

    async def score_many(
        self,
        texts: Sequence[str],
        *,
        jobs: int = JOBS,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
        resume: bool | None = None,
        **options: Unpack[TextsOptions],
    ) -> list[Score]:
        """Score any number of texts of any length, as `Client.score_many` does."""
        if options.get("session") is not None and len(texts) != 1:
            raise InvalidRequest(f"a session goes on with one text, not with {len(texts):,}")
        scores = self.score_each(texts, jobs=jobs, timeout=timeout, resume=resume, **options)
        return [score async for score in scores]

    def score_each(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        jobs: int = JOBS,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[TextsOptions],
    ) -> AsyncIterator[Score]:
        """Score texts one after the other as `texts` brings them, as `Client.score_each` does."""
        if jobs < 1:
            raise InvalidRequest(f"jobs is {jobs}; choose 1 or more")
        settings = score_settings(**options)
        return self._score_each(
            texts, settings, jobs, self._connection.resumption(timeout, resume=resume), resume=resume
        )

    def score_stream(
        self,
        text: Iterable[str] | AsyncIterable[str],
        *,
        join: bool = True,
        ticket_interval: int = 0,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[TextOptions],
    ) -> AsyncScoreStream:
        """Score one text of any length as its pieces come, as `Client.score_stream` does."""
        if isinstance(text, str):
            text = [text]
        settings = text_settings(**options)
        resume = self._connection.settings.resumes(resume)
        scoring = StreamScoring(settings, ticket_interval=ticket_interval, joins=join, resume=resume)
        return AsyncScoreStream(
            text, scoring, self._connection, self._connection.resumption(timeout, resume=resume and scoring.resumes)
        )

    async def score_candidates(
        self,
        context: str,
        candidates: Sequence[str],
        *,
        ranking: CandidateRanking = "sum",
        return_tickets: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the server knows too
        **options: Unpack[ReadingOptions],
    ) -> Ranking:
        """Read `context` once and rank what may follow it, as `Client.score_candidates` does."""
        request = candidates_request(context, candidates, ranking=ranking, return_tickets=return_tickets, **options)
        response = await self._connection.unary(
            lambda stubs: stubs.scoring.ScoreCandidates, request, self._connection.resumption(timeout)
        )
        return ranking_from(response, candidates)

    async def _score_each(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        settings: ScoreSettings,
        jobs: int,
        first: RetryState,
        *,
        resume: bool | None,
    ) -> AsyncIterator[Score]:
        count = 0
        async with aclosing(in_order(self._work(texts, settings, first, resume=resume), jobs)) as scored_groups:
            async for group in scored_groups:
                for score in group.scores:
                    yield score
                count += len(group.scores)
                if group.refusal:
                    rename_in_error(f"texts[{count}]", group.refusal)
                    raise group.refusal

    async def _work(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        settings: ScoreSettings,
        first: RetryState,
        *,
        resume: bool | None,
    ) -> AsyncIterator[Callable[[], Coroutine[Any, Any, ScoredGroup]]]:
        """Yield the calls that there are to make, which share a time limit."""
        resumption = first
        async for group in async_groups(texts, settings):
            if settings.fits(group[0]):
                yield partial(self._score_group, group, settings, resumption)
            else:
                yield partial(self._score_alone, group[0], settings, resumption)
            resumption = self._connection.resumption(first.deadline.left, resume=resume)
            resumption.answered()  # a server that is full, of the calls before, is worth waiting for

    async def _score_group(self, texts: list[str], settings: ScoreSettings, resumption: RetryState) -> ScoredGroup:
        """Score texts in one call; where one of them is refused, those before it in several."""
        try:
            return ScoredGroup(await self._score_at_once(texts, settings, resumption))
        except InvalidRequest as error:
            if len(texts) == 1:
                return ScoredGroup([], error)
        middle = len(texts) // 2
        first = await self._score_group(texts[:middle], settings, resumption)
        if first.refusal:
            return first
        second = await self._score_group(texts[middle:], settings, resumption)
        return ScoredGroup([*first.scores, *second.scores], second.refusal)

    async def _score_at_once(self, texts: list[str], settings: ScoreSettings, resumption: RetryState) -> list[Score]:
        request = score_request(texts, settings)
        response = await self._connection.unary(lambda stubs: stubs.scoring.Score, request, resumption)
        return scores_from(response, texts, settings)

    async def _score_alone(self, text: str, settings: ScoreSettings, resumption: RetryState) -> ScoredGroup:
        """Score a text that is too long for a call that brings it whole."""
        try:
            return ScoredGroup([await self._score_streamed(text, settings, resumption)])
        except InvalidRequest as error:
            return ScoredGroup([], error)

    async def _score_streamed(self, text: str, settings: ScoreSettings, resumption: RetryState) -> Score:
        scoring = StreamScoring(settings, resume=resumption.enabled)
        async with AsyncScoreStream([text], scoring, self._connection, resumption) as stream:
            progresses = [progress async for progress in stream]
            assert stream.finished
            return collected(progresses, stream.finished)
