"""The rows of what there is to score."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Final, TypeVar

from charlm_client.client import Client
from charlm_client.in_flight import in_order
from charlm_client.score_command.inputs import Input, opened, size_of
from charlm_client.score_command.records import Record
from charlm_client.score_command.rows import Row
from charlm_client.score_command.window_texts import WindowTexts
from charlm_client.score_settings import TextsOptions
from charlm_client.scoring import Score
from charlm_client.stream_scoring import ScoreProgress
from charlm_client.windows import WindowSize

SMALL_BYTES: Final = 65_536
"""Files up to this size are read whole and share calls; larger ones are streamed."""

SHOWN_WINDOW: Final = 10_000
"""Up to how many characters a window is shown with its text."""

LABEL_CHARACTERS: Final = 40
"""How much of a --text stands for it."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Paint:
    """Where a whole text goes that is shown as it comes."""

    begin: Callable[[str], None]
    """Told the name of each text."""
    add: Callable[[Score], None]
    """Told its characters, piece by piece."""


@dataclass(frozen=True)
class Scorer:
    """One server, and how everything is to be scored."""

    client: Client
    options: TextsOptions
    jobs: int
    note: Callable[[int], None]
    """Told how many bytes were read."""
    returns_text: bool = False
    """Whether rows come with the text as it was read, to which there is something about each character."""

    def files(self, files: Sequence[str]) -> Iterator[Row]:
        """Yield one row for each file, large or small, several of them at once."""
        for is_small, run in groupby(files, self._is_small):
            if is_small:
                yield from (Row(*named) for named in self._each(self._texts(run)))
            else:
                work = (partial(self._file, file) for file in run)
                yield from in_order(work, self.jobs, self.client.close)

    def texts(self, texts: Iterable[str]) -> Iterator[Row]:
        """Yield one row for each of the texts."""
        for name, score in self._each((label(text), text) for text in texts):
            yield Row(name, score)

    def shown_file(self, file: str, paint: Paint, *, return_ticket: bool) -> Row:
        """Score one file, and show it as it comes."""
        with opened(file, self.note) as source:
            return self._shown(source.name, source.pieces(), paint, return_ticket=return_ticket)

    def shown_text(self, text: str, paint: Paint, *, return_ticket: bool) -> Row:
        """Score one text, and show it."""
        return self._shown(label(text), [text], paint, return_ticket=return_ticket)

    def running(self, file: str, *, return_ticket: bool) -> Iterator[Row]:
        """Yield a row of what has come of one file, again and again; the last one is of the whole."""
        with opened(file, self.note) as source:
            for progress in self._progress(source, return_ticket=return_ticket):
                yield Row(source.name, progress.total, place={"sent_count": progress.sent_count})

    def lines(self, file: str, *, with_end: bool) -> Iterator[Row]:
        """Yield a row for each line that is not empty, each a text of its own; `with_end`: with its line feed."""
        with opened(file, self.note) as source:
            numbered = _numbered(source, with_end=with_end)
            for (number, line), score in self._as_they_come(numbered):
                shown = score.text.removesuffix("\n") if self.returns_text else line
                yield Row(f"{source.name}:{number}", score, shown, {"line": number})

    def windows(self, file: str, size: WindowSize, *, return_ticket: bool) -> Iterator[Row]:
        """Yield a row for each window of one running text, but for empty lines; then one of the whole."""
        shows_text = size == "lines" or size <= SHOWN_WINDOW or self.returns_text
        with opened(file, self.note) as source:
            texts, number = WindowTexts(), 0
            last: ScoreProgress | None = None
            for last in self._progress(source, windows=size, return_text=shows_text, return_ticket=return_ticket):
                for window, score in texts.add(last.latest):
                    number += 1
                    place: dict[str, object] = {"first": window.first, "character_count": window.character_count}
                    name = f"{source.name}[{window.first}:{window.end}]"
                    if size == "lines":
                        name, place = f"{source.name}:{number}", {"line": number} | place
                    text = score.text.removesuffix("\n") if size == "lines" else score.text
                    if text or not shows_text:
                        yield Row(name, score, text if shows_text else None, place)
            assert last
            yield Row(source.name, last.total)

    def records(self, file: str, records: Callable[[Input], Iterator[Record | None]]) -> Iterator[tuple[Record, Row]]:
        """Yield each record with the row of its text."""
        with opened(file, self.note) as source:
            numbered = ((record, record.text) if record else None for record in records(source))
            for record, score in self._as_they_come(numbered):
                yield record, Row(f"{source.name}:{record.number}", score)

    def _is_small(self, file: str) -> bool:
        size = size_of(file)
        return size is not None and size <= SMALL_BYTES and file != "-"

    def _texts(self, files: Iterable[str]) -> Iterator[tuple[str, str]]:
        for file in files:
            with opened(file, self.note) as source:
                yield source.name, source.text()

    def _file(self, file: str) -> Row:
        """Score one file, whatever its size."""
        with opened(file, self.note) as source:
            stream = self.client.score_stream(source.pieces(), **self._text_options())
            for _ in stream:
                pass
            assert stream.finished
            return Row(source.name, stream.finished)

    def _shown(self, name: str, pieces: Iterable[str], paint: Paint, *, return_ticket: bool) -> Row:
        paint.begin(name)
        options = self._text_options() | {"return_text": True, "return_ticket": return_ticket}
        with self.client.score_stream(pieces, **options) as stream:
            for progress in stream:
                paint.add(progress.latest)
        assert stream.finished
        return Row(name, stream.finished)
