"""Gathers any number of texts into calls that respect the limits. No I/O: both clients make the calls."""

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from segue_client.errors import InvalidRequest, NotExact
from segue_client.messages.generation_request import encodable
from segue_client.messages.score import Score
from segue_client.messages.score_request import WINDOWS_PER_CALL, ScoreSettings

JOBS: Final = 4
"""The default number of concurrent calls: enough that the server never waits."""

CHARACTERS_AT_ONCE: Final = 131_072
"""The most characters in one call, about a second's work; the contract allows more."""

TEXTS_AT_ONCE: Final = 1024

_ABOUT_A_TEXT: Final = re.compile(r"text(s\[(?P<number>\d+)\])?(: | (?=holds )|(?P<space> )(?=is \w+, not str$))")
"""The beginning of a message about one text, by a server or by `encodable`."""

Outcome: TypeAlias = Score | InvalidRequest
"""What became of a text: its score, or why it was refused."""


class Groups:
    """Gathers texts into groups that fit into one call, in order; a text too long for a call is a group by itself.

    Raises InvalidRequest for a text that the wire cannot carry, unless `with_refused`: then it is in a group, too, even
    if it is no text.
    """

    def __init__(self, settings: ScoreSettings, *, with_refused: bool = False) -> None:
        self._settings = settings
        self._with_refused = with_refused
        self._most_characters = min(settings.characters_per_call, CHARACTERS_AT_ONCE)
        self._most_texts = min(settings.texts_per_call, TEXTS_AT_ONCE)
        self._count = 0
        self._begin([])

    def add(self, text: str) -> list[str] | None:
        """Add the next text; return the group before it if that is complete."""
        if not self._with_refused:
            encodable(f"texts[{self._count}]", text)
        self._count += 1
        if self._settings.session is not None and self._count > 1:
            raise InvalidRequest("a session continues with one text; score the others from tickets")
        windows = self._settings.windows_in(text)
        if self._has_room_for(text, windows):
            self._group.append(text)
            self._characters += _length(text)
            self._windows += windows
            return None
        group = self._group
        self._begin([text])
        return group

    def end(self) -> list[str] | None:
        """Return the last group, unless there were no texts."""
        group = self._group
        self._begin([])
        return group or None

    def _begin(self, group: list[str]) -> None:
        self._group = group
        self._characters = sum(map(_length, group))
        self._windows = sum(map(self._settings.windows_in, group))

    def _has_room_for(self, text: str, windows: int) -> bool:
        return not self._group or (
            self._characters + _length(text) <= self._most_characters
            and self._windows + windows <= WINDOWS_PER_CALL
            and len(self._group) < self._most_texts
        )


def _length(text: object) -> int:
    return len(text) if isinstance(text, str) else 0


def unsendable(texts: Sequence[str]) -> dict[int, Outcome]:
    """Return the refusals of those of `texts` that the wire cannot carry, by their numbers."""
    refusals = dict[int, Outcome]()
    for number, text in enumerate(texts):
        try:
            encodable(f"texts[{number}]", text)
        except InvalidRequest as error:
            refusals[number] = error
    return refusals


class OneBuild:
    """Checks that one build of the model scores all texts."""

    def __init__(self, settings: ScoreSettings) -> None:
        self._accepts_any = not settings.exact
        self._sha256 = ""

    def check(self, score: Score, number: int) -> None:
        """Check the score of the text of that number; raise NotExact if another build scored those before."""
        sha256 = score.continuation.sha256 if score.continuation else ""
        if self._accepts_any or not sha256:
            return
        self._sha256 = self._sha256 or sha256
        if sha256 != self._sha256:
            raise NotExact(
                f"texts[{number}] was scored by build {sha256[:12]} of the model, those before by {self._sha256[:12]}: "
                "choose one with version, or accept both with exact=False"
            )


def is_about_a_text(error: InvalidRequest) -> bool:
    """Whether `error` refuses one text, and not the whole request."""
    return _ABOUT_A_TEXT.match(str(error)) is not None


def refused_text(error: InvalidRequest, count: int) -> int | None:
    """Return the number of the text, among `count` of a call, that `error` refuses; None if it names none."""
    begin = _ABOUT_A_TEXT.match(str(error))
    number = begin["number"] if begin else None
    if number is None:
        return 0 if begin and count == 1 else None
    return int(number) if int(number) < count else None


def rename_in_error(name: str, error: InvalidRequest) -> None:
    """In a message about one text, replace the text's number by `name`."""
    if begin := _ABOUT_A_TEXT.match(str(error)):
        error.args = (f"{name}{begin['space'] or ': '}{str(error)[begin.end() :]}",)
