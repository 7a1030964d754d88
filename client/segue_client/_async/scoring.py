"""The scoring methods of an AsyncClient."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Unpack

from segue_client._async.concurrency import Job, in_order, iterate
from segue_client._async.connection import AsyncConnection
from segue_client._async.score_stream import AsyncScoreStream
from segue_client.errors import InvalidRequest
from segue_client.messages.candidates import Ranking, ranking_from
from segue_client.messages.generation_request import check_text, listed
from segue_client.messages.option_names import check_names
from segue_client.messages.score import Score, scores_from
from segue_client.messages.score_request import (
    CandidateRanking,
    ReadingOptions,
    ScoreSettings,
    TextOptions,
    TextsOptions,
    candidates_request,
    score_request,
    text_settings,
)
from segue_client.protocol.batching import (
    JOBS,
    Groups,
    OneBuild,
    Outcome,
    is_about_a_text,
    refused_text,
    rename_in_error,
    unsendable,
)
from segue_client.protocol.retry import RetryState
from segue_client.protocol.score_stream import StreamScoring, collected


class AsyncScoringCalls:
    """The scoring methods of `AsyncClient`."""

    _connection: AsyncConnection

    async def score(
        self,
        text: str,
        *,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[TextOptions],
    ) -> Score:
        """Score a text of any length.

        model, version      "" is the server's only model, 0 its newest version
        ticket              the state to start from; None: the zero state, unless a session is given
        session             the session to continue; the text advances it
        exact               whether to accept only an exact continuation; see NotExact
        unknown             "replace" characters outside the vocabulary, or "refuse" the call
        verbatim            whether the text is read as it is, without the model's normalization: a text that the model
                            wrote then gets, to the bit, the score with which it was written
        begin               what precedes a text from the zero state: "nothing", so that its first character is read but
                            not scored; or the model's "begin" character, so that all characters are scored. None:
                            "begin" for a model of documents, otherwise "nothing". From a ticket or a session all
                            characters are scored anyway.
        end                 "nothing" is added; or a "line-feed" is added, and scored, if the text does not end with one
        log_probabilities   whether to return the log-probability of each character
        ranks               whether to return the rank of each character: 1 is the likeliest
        top_alternatives    how many of the likeliest characters in each place to return, 0 to 20
        windows             the parts to score beside the whole: a number of characters each, or "lines"
        return_ticket       whether to return a ticket, to continue from
        return_text         whether to return the text as it was read
        timeout             seconds for the whole text
        resume              whether a long text is resumed after its server was lost; None: the client's setting
        """
        check_names("score", options, TextOptions)
        settings = text_settings(**options)
        check_text("text", text)
        retry = self._connection.retry_state(timeout, resume=resume, in_session=settings.session is not None)
        if not settings.fits(text):
            return await self._score_streamed(text, settings, retry)
        [score] = await self._score_at_once([text], settings, retry)
        return score

    async def score_many(
        self,
        texts: Sequence[str],
        *,
        jobs: int = JOBS,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[TextsOptions],
    ) -> list[Score]:
        """Score any number of texts of any length, each by itself from the same start; return one score for each.

        `jobs`: the number of concurrent calls. `timeout` covers them all. Everything else is as in `score`.
        """
        check_names("score_many", options, TextsOptions)
        if options.get("session") is not None and len(texts := listed("texts", texts)) != 1:
            raise InvalidRequest(f"a session continues with one text, not with {len(texts):,}")
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
        """Score texts as `texts` yields them; yield the scores in the same order.

        One build of the model scores them all: where several addresses, or a restart of the server, bring another one,
        NotExact is raised, unless `exact` is False.

        Works for millions of texts: at most `jobs` calls, of up to 131,072 characters and 1,024 texts each, run at
        once. The caller of the iterator reads `texts`. An error of `texts`, or the refusal of a text, is raised after
        the scores of all texts before it; the message of a refusal counts the texts from 0. Everything else is as in
        `score_many`.
        """
        settings = _settings("score_each", jobs, options)
        first = self._connection.retry_state(timeout, resume=resume, in_session=settings.session is not None)
        work = self._jobs(texts, settings, first, resume=resume, goes_on=False)
        return self._until_refused(self._outcomes(work, jobs, OneBuild(settings)))

    def try_score_each(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        jobs: int = JOBS,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[TextsOptions],
    ) -> AsyncIterator[Score | InvalidRequest]:
        """Like `score_each`, but yield the refusal of a text in place of its score, and go on with the next text.

        Raises InvalidRequest for what is wrong with every text, such as a ticket of another model.
        """
        settings = _settings("try_score_each", jobs, options)
        first = self._connection.retry_state(timeout, resume=resume, in_session=settings.session is not None)
        work = self._jobs(texts, settings, first, resume=resume, goes_on=True)
        return self._outcomes(work, jobs, OneBuild(settings))

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
        """Score one text of any length as its pieces arrive, in bounded memory.

        join                whether small pieces are joined to pieces of 16,384 characters, of which up to four are sent
                            ahead (one if the text cannot be resumed); otherwise each piece is sent at once, and its
                            progress returned before the next one is read
        ticket_interval     about how many characters apart the progress carries a ticket; 0: never
        return_ticket       whether `finished` carries a ticket
        return_text         whether each progress carries its text, as it was read
        timeout             seconds for the whole text
        resume              whether the text is resumed after its server was lost, with the same result. Not from a
                            session: only the call that sends the end of the text advances it.

        Everything else is as in `score`. A text may be cut anywhere between characters.
        """
        if isinstance(text, str):
            text = [text]
        check_names("score_stream", options, TextOptions)
        settings = text_settings(**options)
        resume = self._connection.settings.resumes(resume)
        scoring = StreamScoring(settings, ticket_interval=ticket_interval, joins=join, resume=resume)
        resume = resume and scoring.resumes
        retry = self._connection.retry_state(timeout, resume=resume, in_session=settings.session is not None)
        return AsyncScoreStream(text, scoring, self._connection, retry)

    async def score_candidates(
        self,
        context: str,
        candidates: Iterable[str],
        *,
        ranking: CandidateRanking = "sum",
        return_tickets: bool = False,
        timeout: float | None = None,
        **options: Unpack[ReadingOptions],
    ) -> Ranking:
        """Read `context` once and rank 1 to 4,096 candidates to follow it, the best first.

        ranking             by the log-probability of the whole candidate ("sum"), or by the "mean" of its characters,
                            which does not favour short candidates
        begin               what precedes the context; None: the model's "begin" character
        end                 what follows each candidate
        return_tickets      whether to return the tickets after the context and after each of up to 256 candidates

        Everything else is as in `score`. A session is not advanced.
        """
        check_names("score_candidates", options, ReadingOptions)
        if not isinstance(candidates, str):
            candidates = listed("candidates", candidates)
        request = candidates_request(context, candidates, ranking=ranking, return_tickets=return_tickets, **options)
        in_session = options.get("session") is not None
        response = await self._connection.ask(
            lambda stubs: stubs.scoring.ScoreCandidates, request, timeout, in_session=in_session
        )
        return ranking_from(response, candidates)

    async def _until_refused(self, work: AsyncGenerator[Outcome, None]) -> AsyncIterator[Score]:
        """Yield the scores before the first refusal, then raise it."""
        async with aclosing(work) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome, InvalidRequest):
                    raise outcome
                yield outcome

    async def _outcomes(
        self, work: AsyncIterator[Job[list[Outcome]]], jobs: int, build: OneBuild
    ) -> AsyncGenerator[Outcome, None]:
        """Yield what becomes of each text; a refusal names the text by its number among all."""
        count = 0
        async with aclosing(in_order(work, jobs)) as scored_groups:
            async for outcomes in scored_groups:
                for outcome in outcomes:
                    if isinstance(outcome, InvalidRequest):
                        rename_in_error(f"texts[{count}]", outcome)
                    else:
                        build.check(outcome, count)
                    yield outcome
                    count += 1

    async def _jobs(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        settings: ScoreSettings,
        first: RetryState,
        *,
        resume: bool | None,
        goes_on: bool,
    ) -> AsyncIterator[Job[list[Outcome]]]:
        """Yield the calls to make, which share the deadline of `first`; `goes_on`: after a refused text."""
        retry, score_group = first, self._try_score_group if goes_on else self._score_group
        async for group in _groups(texts, Groups(settings, with_refused=goes_on)):
            score = score_group if settings.fits(group[0]) else self._score_alone
            yield partial(score, group, settings, retry)
            retry = self._connection.retry_state(first.deadline.left, resume=resume)
            retry.note_answer()  # a server full of the calls before is worth waiting for

    async def _score_group(self, texts: list[str], settings: ScoreSettings, retry: RetryState) -> list[Outcome]:
        """Score texts in one call; if one of them is refused, score those before it in several calls."""
        try:
            return [*await self._score_at_once(texts, settings, retry)]
        except InvalidRequest as error:
            if len(texts) == 1:
                return [error]
        middle = len(texts) // 2
        first = await self._score_group(texts[:middle], settings, retry)
        if isinstance(first[-1], InvalidRequest):
            return first
        return [*first, *await self._score_group(texts[middle:], settings, retry)]

    async def _try_score_group(self, texts: list[str], settings: ScoreSettings, retry: RetryState) -> list[Outcome]:
        """Score texts in one call, and once more without each one that is refused."""
        refusals = unsendable(texts)
        left = [number for number in range(len(texts)) if number not in refusals]
        scores = list[Score]()
        while left:
            try:
                scores = await self._score_at_once([texts[number] for number in left], settings, retry)
                break
            except InvalidRequest as error:
                refused = refused_text(error, len(left))
                if refused is None:
                    raise
                refusals[left.pop(refused)] = error
        outcomes = refusals | dict(zip(left, scores, strict=True))
        return [outcomes[number] for number in range(len(texts))]

    async def _score_alone(self, texts: list[str], settings: ScoreSettings, retry: RetryState) -> list[Outcome]:
        """Score one text that is too long for a single message."""
        [text] = texts
        try:
            return [await self._score_streamed(text, settings, retry)]
        except InvalidRequest as error:
            if not is_about_a_text(error):
                raise
            return [error]

    async def _score_at_once(self, texts: list[str], settings: ScoreSettings, retry: RetryState) -> list[Score]:
        request = score_request(texts, settings)
        response = await self._connection.unary(lambda stubs: stubs.scoring.Score, request, retry)
        return scores_from(response, texts, settings)

    async def _score_streamed(self, text: str, settings: ScoreSettings, retry: RetryState) -> Score:
        scoring = StreamScoring(settings, resume=retry.enabled)
        async with AsyncScoreStream([text], scoring, self._connection, retry) as stream:
            progresses = [progress async for progress in stream]
            assert stream.finished
            return collected(progresses, stream.finished)


def _settings(method: str, jobs: object, options: TextsOptions) -> ScoreSettings:
    check_names(method, options, TextsOptions)
    if not isinstance(jobs, int) or jobs < 1:
        raise InvalidRequest(f"jobs is {jobs}; choose 1 or more")
    return ScoreSettings(**options)


async def _groups(texts: Iterable[str] | AsyncIterable[str], groups: Groups) -> AsyncIterator[list[str]]:
    """Yield the texts in groups that fit into one call; an error of `texts` is raised after the texts before it."""
    if isinstance(texts, str):
        raise TypeError("these are several texts; for one, call score")
    failure = None
    try:
        async for text in iterate("texts", texts):
            if complete := groups.add(text):
                yield complete
    except Exception as error:  # noqa: BLE001 - raised below
        failure = error
    if last := groups.end():
        yield last
    if failure:
        raise failure
