"""What the synchronous client can have scored."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from charlm_client.connection import MessageStream, ServerStream
from charlm_client.errors import CharlmError
from charlm_client.request import UnknownPolicy
from charlm_client.resumption import Resumption
from charlm_client.score_calls import Calls, score_calls
from charlm_client.score_settings import score_settings
from charlm_client.scoring import Score
from charlm_client.stubs import Stubs

_Response = TypeVar("_Response")


class ScoringCalls(ABC):
    """The scoring methods of `Client`."""

    @abstractmethod
    def _resumption(self, timeout: float | None) -> Resumption:
        """Return what decides about the failures of one call, or of several that belong together.

        `timeout` is the limit in seconds of them all; None is the client's own.
        """

    @abstractmethod
    def _unary(
        self, method: Callable[[Stubs], Callable[..., _Response]], request: object, resumption: Resumption
    ) -> _Response:
        """Make one call that may be repeated, until it succeeds; raise the errors of `charlm_client.errors`."""

    @abstractmethod
    def _duplex(
        self,
        method: Callable[[Stubs], Callable[..., ServerStream[_Response]]],
        requests: Iterator[object],
        resumption: Resumption,
    ) -> MessageStream[_Response]:
        """Begin one call with messages both ways, at `resumption.address`; it ends at the first failure.

        Who reads it tells `resumption` of each success (`progressed`), and each CharlmError to `_wait_after`, which
        says by returning that another call may go on. `cancel` gives the call up.
        """

    @abstractmethod
    def _wait_after(self, error: CharlmError, resumption: Resumption) -> None:
        """Wait until the next try; raise `error` where there is to be none."""

    def score(  # noqa: PLR0913 - the fields of the request
        self,
        text: str,
        *,
        model: str = "",
        version: int = 0,
        ticket: bytes | None = None,
        log_probabilities: bool = False,
        unknown: UnknownPolicy = "replace",
        return_ticket: bool = False,
        timeout: float | None = None,
    ) -> Score:
        """Score a text of any length.

        From the zero state the first character is read, not scored; from a ticket, and by a model of documents,
        every character is scored. There a line feed at the end of the text scores the end of the document.
        `timeout` covers all the calls that a long text takes.
        """
        [score] = self.score_many(
            [text],
            model=model,
            version=version,
            ticket=ticket,
            log_probabilities=log_probabilities,
            unknown=unknown,
            return_tickets=return_ticket,
            timeout=timeout,
        )
        return score

    def score_many(  # noqa: PLR0913 - the fields of the request
        self,
        texts: Sequence[str],
        *,
        model: str = "",
        version: int = 0,
        ticket: bytes | None = None,
        log_probabilities: bool = False,
        unknown: UnknownPolicy = "replace",
        return_tickets: bool = False,
        timeout: float | None = None,
    ) -> list[Score]:
        """Score any number of texts of any length, each by itself from the same start; one score for each."""
        settings = score_settings(
            model=model,
            version=version,
            ticket=ticket,
            log_probabilities=log_probabilities,
            unknown=unknown,
            return_tickets=return_tickets,
        )
        return self._answer(score_calls(texts, settings), self._resumption(timeout))

    def _answer(self, calls: Calls, resumption: Resumption) -> list[Score]:
        """Send each request that `calls` yields, give it the response, and return what it returns."""
        try:
            request = next(calls)
            while True:
                response = self._unary(lambda stubs: stubs.scoring.Score, request, resumption)
                request = calls.send(response)
        except StopIteration as done:
            scores: list[Score] = done.value
            return scores
