"""The rows of what there is to score, from a server."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Final, Literal, Protocol, TypeVar

from segue_client._sync.client import Client
from segue_client._sync.concurrency import in_order
from segue_client._sync.score_stream import ScoreStream
from segue_client.commands.score.inputs import Input, opened, size_of
from segue_client.commands.score.records import Record, read_records
from segue_client.commands.score.rows import Row
from segue_client.commands.score.window_texts import WindowTexts
from segue_client.errors import InvalidRequest
from segue_client.messages.score import Score
from segue_client.messages.score_request import ScoreOptions
from segue_client.messages.windows import WindowSize
from segue_client.protocol.batching import rename_in_error
from segue_client.protocol.score_stream import ScoreProgress, collected

SMALL_BYTES: Final = 65_536
"""Files up to this size share calls; larger ones are streamed."""

SHOWN_WINDOW: Final = 10_000
"""Up to how many characters a window is shown with its text."""

LABEL_CHARACTERS: Final = 40
"""How much of a --text stands for it."""

_Item = TypeVar("_Item")


class Painter(Protocol):
    """What shows texts character by character, as they come."""

    def begin(self, name: str) -> None:
        """Begin the next text."""

    def add(self, part: Score) -> None:
        """Show more of it."""


@dataclass(frozen=True)
class Scorer:
    """How everything is to be scored, and by which server."""

    client: Client
    options: ScoreOptions
    jobs: int
    """How many calls are on their way at once."""
    in_detail: bool = False
    """Whether rows have their text as it was read, and what there is of each character."""
    return_ticket: bool = False
    """Whether the row of a whole text has the ticket behind it; for one text alone."""
    keep: Callable[[Score], None] = lambda _score: None
    """Told the score of each whole text, with the ticket where there is one."""
    note: Callable[[int], None] = lambda _count: None
    """Told how many bytes were read, each time."""

    def files(self, files: Sequence[str]) -> Iterator[Row]:
        """Yield a row for each file, several of them at once.

        What may never end, such as a pipe, is read in this thread, the one that an interrupt reaches.
        """
        for kind, run in groupby(files, self._kind):
            match kind:
                case "small":
                    yield from (self._row(name, score) for name, score in self._each(self._small_texts(run), str))
                case "large":
                    yield from in_order((partial(self._file, file) for file in run), self.jobs)
                case "endless":
                    yield from map(self._file, run)

    def texts(self, texts: Sequence[str]) -> Iterator[Row]:
        """Yield a row for each text."""
        if self.return_ticket:
            yield from (self._whole(_label(text), [text]) for text in texts)
        else:
            items = ((_label(text), text) for text in texts)
            yield from (self._row(name, score) for name, score in self._each(items, str))

    def painted_files(self, files: Sequence[str], painters: Sequence[Painter], *, collects: bool) -> Iterator[Row]:
        """Yield a row for each file, one after the other, and have it painted as it comes.

        `collects`: whether the row has what there is of each character as well.
        """
        for file in files:
            with opened(file, self.note) as source:
                yield self._painted(source.name, source.pieces(), painters, collects=collects)

    def painted_texts(self, texts: Sequence[str], painters: Sequence[Painter], *, collects: bool) -> Iterator[Row]:
        """Yield a row for each text, in the same way."""
        yield from (self._painted(_label(text), [text], painters, collects=collects) for text in texts)

    def running(self, file: str) -> Iterator[Row]:
        """Yield a row of what has come of a file, again and again; the last one is of the whole."""
        with opened(file, self.note) as source, _called(source.name):
            stream = self._stream(source)
            for progress in stream:
                yield Row(source.name, progress.total, place={"sent_count": progress.sent_count})
            self._keep(stream)

    def lines(self, file: str, *, with_end: bool) -> Iterator[Row]:
        """Yield a row for each line that is not empty, each a text of its own; `with_end`: with its line feed."""
        with opened(file, self.note) as source:

            def name_of(item: tuple[int, str]) -> str:
                return f"{source.name}:{item[0]}"

            items = _numbered_lines(source, "\n" if with_end else "")
            for (number, line), score in self._as_they_come(items, name_of):
                row = Row(name_of((number, line)), score, line, {"line": number})
                yield self._detailed(row)

    def windows(self, file: str, size: WindowSize) -> Iterator[Row]:
        """Yield a row for each window of one running text; of lines, for the empty ones too."""
        with opened(file, self.note) as source, _called(source.name):
            texts, number = WindowTexts(), 0
            shows_text = self.in_detail or size == "lines" or size <= SHOWN_WINDOW
            stream = self._stream(source, windows=size, return_text=shows_text)
            for progress in stream:
                for window, score in texts.add(progress.latest):
                    number += 1
                    if size == "lines":
                        name, place = f"{source.name}:{number}", {"line": number}
                    else:
                        name, place = f"{source.name}[{window.first}:{window.end}]", {"first": window.first}
                    yield Row(name, score, score.text if shows_text else None, place)
            self._keep(stream)

    def records(self, file: str, field: str) -> Iterator[tuple[Record, Row]]:
        """Yield each record of a file of JSON lines with the row of its text."""
        with opened(file, self.note) as source:

            def name_of(record: Record) -> str:
                return f"{source.name}:{record.number}"

            for record, score in self._as_they_come(read_records(source, field), name_of):
                yield record, Row(name_of(record), score)

    def _kind(self, file: str) -> Literal["small", "large", "endless"]:
        size = size_of(file)
        if size is None:
            return "endless"
        return "small" if size <= SMALL_BYTES and file != "-" and not self.return_ticket else "large"

    def _small_texts(self, files: Iterable[str]) -> Iterator[tuple[str, str]]:
        for file in files:
            with opened(file, self.note) as source:
                yield source.name, source.text()

    def _file(self, file: str) -> Row:
        with opened(file, self.note) as source:
            return self._whole(source.name, source.pieces())

    def _whole(self, name: str, pieces: Iterable[str]) -> Row:
        stream = self.client.score_stream(
            pieces, **self.options, return_text=self.in_detail, return_ticket=self.return_ticket
        )
        with _called(name), stream:
            parts = [progress for progress in stream if self.in_detail]
            return self._row(name, collected(parts, self._keep(stream)))

    def _painted(self, name: str, pieces: Iterable[str], painters: Sequence[Painter], *, collects: bool) -> Row:
        parts = list[ScoreProgress]()
        for painter in painters:
            painter.begin(name)
        stream = self.client.score_stream(pieces, **self.options, return_text=True, return_ticket=self.return_ticket)
        with _called(name), stream:
            for progress in stream:
                for painter in painters:
                    painter.add(progress.latest)
                if collects:
                    parts.append(progress)
            score = collected(parts, self._keep(stream))
        return Row(name, score, score.text if collects else None)

    def _stream(self, source: Input, *, windows: WindowSize | None = None, return_text: bool = False) -> ScoreStream:
        options: ScoreOptions = {**self.options, "windows": windows}
        return self.client.score_stream(
            source.pieces(),
            join=not source.is_live,
            **options,
            return_text=return_text,
            return_ticket=self.return_ticket,
        )

    def _keep(self, stream: ScoreStream) -> Score:
        assert stream.finished
        self.keep(stream.finished)
        return stream.finished

    def _each(
        self, items: Iterable[tuple[_Item, str]], name_of: Callable[[_Item], str]
    ) -> Iterator[tuple[_Item, Score]]:
        """Yield each item with the score of its text; `name_of` says what to call one whose text is refused."""
        sent = deque[_Item]()

        def texts() -> Iterator[str]:
            for item, text in items:
                sent.append(item)
                yield text

        scores = self.client.score_each(texts(), jobs=self.jobs, **self.options, return_texts=self.in_detail)
        try:
            for score in scores:
                yield sent.popleft(), score
        except InvalidRequest as error:
            if sent:
                rename_in_error(name_of(sent[0]), error)
            raise

    def _as_they_come(
        self, items: Iterator[tuple[_Item, str] | None], name_of: Callable[[_Item], str]
    ) -> Iterator[tuple[_Item, Score]]:
        """Do as `_each`, and wait for no further item where None says that it would take a while."""
        has_ended = False

        def burst() -> Iterator[tuple[_Item, str]]:
            nonlocal has_ended
            for item in items:
                if item is None:
                    return
                yield item
            has_ended = True

        while not has_ended:
            yield from self._each(burst(), name_of)

    def _row(self, name: str, score: Score) -> Row:
        return self._detailed(Row(name, score))

    def _detailed(self, row: Row) -> Row:
        return Row(row.name, row.score, row.score.text, row.place) if self.in_detail else row


@contextmanager
def _called(name: str) -> Iterator[None]:
    """Have a refusal of the text call it by its name."""
    try:
        yield
    except InvalidRequest as error:
        rename_in_error(name, error)
        raise


def _numbered_lines(source: Input, end: str) -> Iterator[tuple[tuple[int, str], str] | None]:
    number = 0
    for line in source.lines():
        if line is None:
            yield None
            continue
        number += 1
        if line:
            yield (number, line), line + end


def _label(text: str) -> str:
    shortened = text if len(text) <= LABEL_CHARACTERS else f"{text[: LABEL_CHARACTERS - 1]}…"
    return json.dumps(shortened, ensure_ascii=False)
