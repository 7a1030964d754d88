"""The score of a text in pieces, over as many calls as it takes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from segue.v1 import scoring_pb2

from segue_client.messages.events import Continuation
from segue_client.messages.policies import ScoringPolicies
from segue_client.messages.score import Score, score_from
from segue_client.messages.windows import WindowScore, shifted

_NO_SCORE: Final = Score()
_NO_WINDOWS: Final = WindowScore(first=0, character_count=0)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The score up to some character. Counts are from the beginning of the text."""

    score: Score = _NO_SCORE
    """Of everything up to here, without the details of each character."""
    character_count: int = 0
    """How many characters were read: the scored ones, and the first one if it is not scored."""
    windowed: WindowScore = _NO_WINDOWS
    """All complete windows, as one."""

    @property
    def open_window(self) -> WindowScore:
        """The part of the incomplete window that was read."""
        return WindowScore(
            first=self.windowed.end,
            character_count=self.character_count - self.windowed.end,
            sum_log_probability=self.score.sum_log_probability - self.windowed.sum_log_probability,
            scored_count=self.score.scored_count - self.windowed.scored_count,
            unknown_count=self.score.unknown_count - self.windowed.unknown_count,
        )


class ScoreAccumulator:
    """Adds up the scores of calls, each of which resumes from a ticket of the one before.

    A call also returns the scores between its ticket and the break, which the caller already has: they are dropped.
    """

    def __init__(self, *, first_is_scored: bool, has_windows: bool) -> None:
        """`first_is_scored`: whether the first character of the text is scored, too."""
        self._first_is_scored = first_is_scored
        self._has_windows = has_windows
        self._point = Mark()
        """Where the next call begins."""
        self._reported = Mark()
        """What the caller has."""
        self.begin_call()

    @property
    def point(self) -> Mark:
        """Where the next call begins."""
        return self._point

    @property
    def total(self) -> Score:
        """The score of what the caller has."""
        return self._reported.score

    def begin_call(self) -> None:
        """Begin a call at the last point."""
        self._base = self._now = self._point

    def set_point(self) -> None:
        """Make the next call begin here."""
        self._point = self._now

    def add(
        self,
        message: scoring_pb2.TextScore,
        policies: ScoringPolicies,
        continuation: Continuation,
        *,
        is_last: bool = False,
    ) -> Score | None:
        """Add a score of the current call; return what is new to the caller, None if nothing is."""
        before, base = self._now, self._base
        scored_before = before.score.scored_count - base.score.scored_count
        part = score_from(message, policies, continuation, scored_before=scored_before)
        windows = self._whole_windows(part.windows, is_last=is_last)
        self._now = Mark(
            score=_totals(base.score, part),
            character_count=base.character_count + part.scored_count + self._unscored(part),
            windowed=_joined(before.windowed, windows),
        )
        if self._now.character_count < self._reported.character_count:
            return None
        fresh = self._fresh(part, windows, before)
        self._reported = self._now
        return fresh

    def _unscored(self, part: Score) -> int:
        """Return how many characters this call has read without scoring them."""
        if self._first_is_scored or self._base.character_count:
            return 0
        return int(bool(part.scored_count or part.text or part.ticket or self._now.character_count))

    def _whole_windows(self, windows: tuple[WindowScore, ...], *, is_last: bool) -> tuple[WindowScore, ...]:
        """Return the windows with places in the whole text, the first one with its part before the call."""
        windows = shifted(windows, self._base.character_count)
        before = self._base.open_window
        if not self._has_windows or not before.character_count or self._now.windowed.end != before.first:
            return windows
        if windows:
            return (before.continued(windows[0]), *windows[1:])
        return (before,) if is_last else ()

    def _fresh(self, part: Score, windows: tuple[WindowScore, ...], before: Mark) -> Score:
        now, reported = self._now.score, self._reported.score
        known = max(0, reported.scored_count - before.score.scored_count)
        read = max(0, self._reported.character_count - before.character_count)
        return Score(
            sum_log_probability=now.sum_log_probability - reported.sum_log_probability,
            scored_count=now.scored_count - reported.scored_count,
            unknown_count=now.unknown_count - reported.unknown_count,
            log_probabilities=part.log_probabilities[known:],
            ranks=part.ranks[known:],
            alternatives=part.alternatives[known:],
            windows=tuple(window for window in windows if window.first >= self._reported.windowed.end),
            ticket=part.ticket,
            position=part.position,
            policies=now.policies,
            continuation=now.continuation,
            text=part.text[read:],
        )


def _totals(base: Score, part: Score) -> Score:
    return Score(
        sum_log_probability=base.sum_log_probability + part.sum_log_probability,
        scored_count=base.scored_count + part.scored_count,
        unknown_count=base.unknown_count + part.unknown_count,
        position=part.position,
        policies=base.policies or part.policies,
        continuation=_continuation(base.continuation, part.continuation),
    )


def _continuation(first: Continuation | None, last: Continuation | None) -> Continuation | None:
    """Return what the whole score continued; exact if all calls were."""
    if not first or not last or last.exact:
        return first or last
    return replace(first, exact=False)


def _joined(windowed: WindowScore, windows: Iterable[WindowScore]) -> WindowScore:
    for window in windows:
        windowed = windowed.continued(window)
    return windowed
