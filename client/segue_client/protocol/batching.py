"""Scores of any number of texts, in calls that respect the limits. No I/O: both clients make the calls."""

import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from segue_client.errors import InvalidRequest
from segue_client.messages.generation_request import encodable
from segue_client.messages.score import Score
from segue_client.messages.score_request import WINDOWS_PER_CALL, ScoreSettings

JOBS: Final = 4
"""How many calls are on their way at once, unless told otherwise: enough that the server never waits."""

CHARACTERS_AT_ONCE: Final = 131_072
"""Up to how many characters go into one call, though the contract allows more: about a second's work."""

TEXTS_AT_ONCE: Final = 1024

_OF_A_TEXT: Final = re.compile(r"text(s\[\d+\])?(: | (?=holds ))")
"""How the message about one text begins: that of a server, or of `encodable`."""


@dataclass(frozen=True)
class ScoredGroup:
    """The scores of a group's texts, or of those before the one that was refused."""

    scores: Sequence[Score]
    refusal: InvalidRequest | None = None


class Groups:
    """Gathers texts into groups that fit into one call, in their order; a text that does not fit stands alone."""

    def __init__(self, settings: ScoreSettings) -> None:
        self._settings = settings
        self._most_characters = min(settings.characters_per_call, CHARACTERS_AT_ONCE)
        self._most_texts = min(settings.texts_per_call, TEXTS_AT_ONCE)
        self._count = 0
        self._begin([])

    def add(self, text: str) -> list[str] | None:
        """Take the next text; return the group before it if that is complete."""
        encodable(f"texts[{self._count}]", text)
        self._count += 1
        if self._settings.is_session and self._count > 1:
            raise InvalidRequest("a session goes on with one text; score the others from tickets")
        windows = self._settings.windows_in(text)
        if self._has_room_for(text, windows):
            self._group.append(text)
            self._characters += len(text)
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
        self._characters = sum(map(len, group))
        self._windows = sum(map(self._settings.windows_in, group))

    def _has_room_for(self, text: str, windows: int) -> bool:
        return not self._group or (
            self._characters + len(text) <= self._most_characters
            and self._windows + windows <= WINDOWS_PER_CALL
            and len(self._group) < self._most_texts
        )


def groups(texts: Iterable[str], settings: ScoreSettings) -> Iterator[list[str]]:
    """Yield the groups of `texts`; what their iteration raises comes behind the texts before it."""
    _check_is_not_text(texts)
    gathering, failure = Groups(settings), None
    try:
        for text in texts:
            if group := gathering.add(text):
                yield group
    except Exception as error:  # noqa: BLE001 - it is raised below
        failure = error
    if group := gathering.end():
        yield group
    if failure:
        raise failure


async def async_groups(texts: Iterable[str] | AsyncIterable[str], settings: ScoreSettings) -> AsyncIterator[list[str]]:
    """Yield the groups of `texts`, as `groups` does."""
    if not isinstance(texts, AsyncIterable):
        for group in groups(texts, settings):
            yield group
        return
    gathering, failure = Groups(settings), None
    try:
        async for text in texts:
            if complete := gathering.add(text):
                yield complete
    except Exception as error:  # noqa: BLE001 - it is raised below
        failure = error
    if last := gathering.end():
        yield last
    if failure:
        raise failure


def rename_in_error(name: str, error: InvalidRequest) -> None:
    """Have the message of `error` call the text that it is about, if it is about one, by a name of the caller's."""
    if begin := _OF_A_TEXT.match(str(error)):
        error.args = (f"{name}: {str(error)[begin.end() :]}",)


def _check_is_not_text(texts: object) -> None:
    if isinstance(texts, str):
        raise TypeError("these are several texts; for one, call score")
