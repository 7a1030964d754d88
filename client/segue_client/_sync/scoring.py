"""What the synchronous client can have scored."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Unpack

from segue.v1 import scoring_pb2

from segue_client._sync.concurrency import CallsInFlight, in_order
from segue_client._sync.connection import Connection
from segue_client._sync.score_stream import ScoreStream
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
from segue_client.protocol.batching import JOBS, ScoredGroup, groups, rename_in_error
from segue_client.protocol.retry import RetryState
from segue_client.protocol.score_stream import StreamScoring, collected


class ScoringCalls:
    """The scoring methods of `Client`."""

    _connection: Connection

    def score(
        self,
        text: str,
        *,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[TextOptions],
    ) -> Score:
        """Score a text of any length.

        model, version      "" is the server's only model, 0 its newest version
        ticket              the state to start from; None: nothing was read yet, unless there is a session
        session             the session to go on from, which the text advances
        exact               whether only an exact continuation will do; see NotExact
        unknown             "replace" characters outside the vocabulary, or "refuse" the call
        begin               from the zero state: "nothing" stands before the text, so that its first character is read
                            and not scored; or the model's "begin" character, so that all are. None: "begin" for a model
                            of documents, otherwise "nothing". From a ticket or a session all are scored anyway.
        end                 "nothing" is added; or a "line-feed", where the text does not end with one, is scored too
        log_probabilities   whether to return that of each character,
        ranks               and its rank: 1 is the likeliest
        top_alternatives    for each character, how many of the likeliest ones in its place to return, 0 to 20
        windows             the parts to score beside the whole: so many characters each, or "lines"
        return_ticket       whether to return one, to continue from
        return_text         whether to return the text as it was read
        timeout             seconds for the whole text
        resume              whether a long text goes on after its server was lost; None: as the client was told
        """
        settings = text_settings(**options)
        resumption = self._connection.resumption(timeout, resume=resume)
        if not settings.fits(text):
            return _whole(
                self._stream(
                    [text], StreamScoring(settings, resume=self._connection.settings.resumes(resume)), resumption
                )
            )
        response = self._connection.unary(
            lambda stubs: stubs.scoring.Score, score_request([text], settings), resumption
        )
        [score] = scores_from(response, [text], settings)
        return score

    def score_many(
        self,
        texts: Sequence[str],
        *,
        jobs: int = JOBS,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[TextsOptions],
    ) -> list[Score]:
        """Score any number of texts of any length, each by itself from the same start; return one score for each.

        `jobs`: in how many calls at once. `timeout` covers them all. Everything else is as in `score`.
        """
        if options.get("session") is not None and len(texts) != 1:
            raise InvalidRequest(f"a session goes on with one text, not with {len(texts):,}")
        return list(self.score_each(texts, jobs=jobs, timeout=timeout, resume=resume, **options))

    def score_each(
        self,
        texts: Iterable[str],
        *,
        jobs: int = JOBS,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[TextsOptions],
    ) -> Iterator[Score]:
        """Score texts one after the other as `texts` brings them; yield the scores in the same order.

        Millions of texts pass through: no more than `jobs` calls, of up to 131,072 characters and 1,024 texts each, are
        on their way. `texts` is asked in the thread that iterates; what it raises comes behind the scores of the texts
        before it, and so does the refusal of a text, whose message counts the texts from 0. Everything else is as in
        `score_many`.
        """
        if jobs < 1:
            raise InvalidRequest(f"jobs is {jobs}; choose 1 or more")
        settings = score_settings(**options)
        return self._score_each(
            texts, settings, jobs, self._connection.resumption(timeout, resume=resume), resume=resume
        )

    def score_stream(
        self,
        text: Iterable[str],
        *,
        join: bool = True,
        ticket_interval: int = 0,
        timeout: float | None = None,
        resume: bool | None = None,
        **options: Unpack[TextOptions],
    ) -> ScoreStream:
        """Score one text of any length as its pieces come, in memory that does not grow with it.

        join                whether small pieces wait until they make up one of 16,384 characters, and up to four of
                            those are on their way, one where the text cannot be resumed; otherwise each is sent as it
                            comes, and its progress returned before the next one is asked for
        ticket_interval     about how many characters apart the progress carries a ticket; 0: never
        return_ticket       whether `finished` carries one
        return_text         whether each progress carries the text that it is of, as it was read
        timeout             seconds for the whole text
        resume              whether it goes on after its server was lost, as if nothing had been. From a session it
                            cannot: only the call that brings the text's end advances it.

        Everything else is as in `score`. A text may be cut anywhere between characters.
        """
        if isinstance(text, str):
            text = [text]
        settings = text_settings(**options)
        resume = self._connection.settings.resumes(resume)
        scoring = StreamScoring(settings, ticket_interval=ticket_interval, joins=join, resume=resume)
        return self._stream(text, scoring, self._connection.resumption(timeout, resume=resume and scoring.resumes))

    def score_candidates(
        self,
        context: str,
        candidates: Sequence[str],
        *,
        ranking: CandidateRanking = "sum",
        return_tickets: bool = False,
        timeout: float | None = None,
        **options: Unpack[ReadingOptions],
    ) -> Ranking:
        """Read `context` once and rank what may follow it, the best first: 1 to 4,096 candidates.

        ranking             by the log-probability of a whole candidate ("sum"), or by the "mean" of its characters,
                            which does not favour short ones
        begin               what stands before the context; None: the model's "begin" character
        end                 what stands behind each candidate
        return_tickets      whether to return those behind the context and each of up to 256 candidates

        Everything else is as in `score`. A session is not advanced.
        """
        request = candidates_request(context, candidates, ranking=ranking, return_tickets=return_tickets, **options)
        response = self._connection.unary(
            lambda stubs: stubs.scoring.ScoreCandidates, request, self._connection.resumption(timeout)
        )
        return ranking_from(response, candidates)

    def _score_each(
        self,
        texts: Iterable[str],
        settings: ScoreSettings,
        jobs: int,
        first: RetryState,
        *,
        resume: bool | None,
    ) -> Iterator[Score]:
        calls = CallsInFlight()
        work = (
            partial(self._score_group, group, settings, resumption, calls)
            if settings.fits(group[0])
            else partial(self._score_alone, group[0], settings, resumption, calls)
            for group, resumption in zip(groups(texts, settings), self._resumptions(first, resume=resume), strict=False)
        )
        count = 0
        with closing(in_order(work, jobs, calls.cancel)) as scored_groups:
            for group in scored_groups:
                yield from group.scores
                count += len(group.scores)
                if group.refusal:
                    rename_in_error(f"texts[{count}]", group.refusal)
                    raise group.refusal

    def _score_group(
        self, texts: list[str], settings: ScoreSettings, resumption: RetryState, calls: CallsInFlight
    ) -> ScoredGroup:
        """Score texts in one call; where one of them is refused, those before it in several."""
        try:
            return ScoredGroup(self._score_at_once(texts, settings, resumption, calls))
        except InvalidRequest as error:
            if len(texts) == 1:
                return ScoredGroup([], error)
        middle = len(texts) // 2
        first = self._score_group(texts[:middle], settings, resumption, calls)
        if first.refusal:
            return first
        second = self._score_group(texts[middle:], settings, resumption, calls)
        return ScoredGroup([*first.scores, *second.scores], second.refusal)

    def _score_at_once(
        self, texts: list[str], settings: ScoreSettings, resumption: RetryState, calls: CallsInFlight
    ) -> list[Score]:
        response: scoring_pb2.ScoreResponse = self._connection.unary(
            lambda stubs: calls.invoked(stubs.scoring.Score), score_request(texts, settings), resumption
        )
        return scores_from(response, texts, settings)

    def _score_alone(
        self, text: str, settings: ScoreSettings, resumption: RetryState, calls: CallsInFlight
    ) -> ScoredGroup:
        """Score a text that is too long for a call that brings it whole."""
        stream = self._stream([text], StreamScoring(settings, resume=resumption.enabled), resumption)
        calls.add(stream)
        try:
            return ScoredGroup([_whole(stream)])
        except InvalidRequest as error:
            return ScoredGroup([], error)
        finally:
            calls.remove(stream)

    def _stream(self, text: Iterable[str], scoring: StreamScoring, resumption: RetryState) -> ScoreStream:
        return ScoreStream(text, scoring, self._connection, resumption)

    def _resumptions(self, first: RetryState, *, resume: bool | None) -> Iterator[RetryState]:
        """Yield those of one scoring's calls, which share a time limit."""
        yield first
        while True:
            following = self._connection.resumption(first.deadline.left, resume=resume)
            following.answered()  # a server that is full, of the calls before, is worth waiting for
            yield following


def _whole(stream: ScoreStream) -> Score:
    progresses = list(stream)
    assert stream.finished
    return collected(progresses, stream.finished)
