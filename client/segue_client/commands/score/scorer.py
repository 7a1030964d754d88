"""Turns files, texts, lines, windows and records into rows, by way of a server."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Final, Literal, TypeAlias, TypeVar

from segue_client._sync.client import Client
from segue_client._sync.concurrency import in_order
from segue_client._sync.score_stream import ScoreStream
from segue_client.commands.score.html_page import HtmlPage
from segue_client.commands.score.inputs import opened, size_of
from segue_client.commands.score.printing import TerminalPainter
from segue_client.commands.score.records import Record, read_records
from segue_client.commands.score.rows import Row
from segue_client.errors import InvalidRequest
from segue_client.messages.score import Score
from segue_client.messages.score_request import ScoreOptions
from segue_client.messages.windows import WindowScore, WindowSize
from segue_client.protocol.batching import rename_in_error
from segue_client.protocol.score_stream import ScoreProgress, collected

SMALL_BYTES: Final = 65_536
"""Files up to this size share calls; larger ones are streamed."""

SHOWN_WINDOW: Final = 10_000
"""The largest window, in characters, that is shown with its text."""

LABEL_CHARACTERS: Final = 40
"""The length to which a --text is cut where it serves as a name."""

_Item = TypeVar("_Item")


Painter: TypeAlias = TerminalPainter | HtmlPage
"""Shows texts character by character as they are scored."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Which server scores, and how."""

    client: Client
    options: ScoreOptions
    jobs: int
    """Concurrent calls."""
    in_detail: bool = False
    """Whether rows hold their text as it was read, and per-character values."""
    painters: Sequence[Painter] = ()
    """What shows whole texts as they are scored, one at a time."""
    return_ticket: bool = False
    """Whether the score of a whole text has its ticket; for one text only."""
    keep: Callable[[Score], None] = lambda _score: None
    """Called with the score of each whole text."""
    note: Callable[[int], None] = lambda _count: None
    """Called with the number of bytes of each read."""

    def files(self, files: Sequence[str]) -> Iterator[Row]:
        """Yield a row for each file, scoring several at once.

        What may never end, such as a pipe, is read in this thread, which an interrupt reaches.
        """
        for kind, run in groupby(files, self._kind):
            match kind:
                case "small":
                    yield from (self._row(name, score) for name, score in self._each(self._small_texts(run), str))
                case "large":
                    yield from in_order((partial(self._file, file) for file in run), self.jobs)
                case "one at a time":
                    yield from map(self._file, run)

    def texts(self, texts: Sequence[str]) -> Iterator[Row]:
        """Yield a row for each text."""
        items = [(_label(text), text) for text in texts]
        if self.return_ticket or self.painters:
            yield from (self._whole(label, [text]) for label, text in items)
        else:
            yield from (self._row(label, score) for label, score in self._each(items, str))

    def running(self, file: str) -> Iterator[Row]:
        """Yield a row for what was read of a file so far, again and again; the last one is of the whole."""
        with opened(file, self.note) as source, _naming(source.name):
            stream = self._stream(source.pieces(), join=not source.is_live)
            for progress in stream:
                yield Row(source.name, progress.total, place={"sent_count": progress.sent_count})
            self._keep(stream)

    def lines(self, file: str, *, with_end: bool) -> Iterator[Row]:
        """Yield a row for each line that is not empty, scored as its own text; `with_end`: with its line feed."""
        end = "\n" if with_end else ""
        with opened(file, self.note) as source:

            def name_of(item: tuple[int, str]) -> str:
                return f"{source.name}:{item[0]}"

            items = (None if item is None else (item, item[1] + end) for item in source.lines())
            for item, score in self._in_bursts(items, name_of):
                number, line = item
                text = score.text if self.in_detail else line
                yield Row(name_of(item), score, text, {"line": number})

    def windows(self, file: str, size: WindowSize) -> Iterator[Row]:
        """Yield a row for each window of one text, including empty lines."""
        with opened(file, self.note) as source, _naming(source.name):
            shows_text = self.in_detail or size == "lines" or size <= SHOWN_WINDOW
            stream = self._stream(source.pieces(), join=not source.is_live, windows=size, return_text=shows_text)
            for number, (window, score) in enumerate(_window_scores(stream), start=1):
                if size == "lines":
                    name, place = f"{source.name}:{number}", {"line": number}
                else:
                    name, place = f"{source.name}[{window.first}:{window.end}]", {"first": window.first}
                yield Row(name, score, score.text if shows_text else None, place)
            self._keep(stream)

    def records(self, file: str, field: str) -> Iterator[tuple[Record, Row]]:
        """Yield each record of a JSON lines file with the row of its text."""
        with opened(file, self.note) as source:

            def name_of(record: Record) -> str:
                return f"{source.name}:{record.number}"

            for record, score in self._in_bursts(read_records(source, field), name_of):
                yield record, Row(name_of(record), score)

    def _kind(self, file: str) -> Literal["small", "large", "one at a time"]:
        size = size_of(file)
        if size is None or self.painters:
            return "one at a time"
        return "small" if size <= SMALL_BYTES and file != "-" and not self.return_ticket else "large"

    def _small_texts(self, files: Iterable[str]) -> Iterator[tuple[str, str]]:
        for file in files:
            with opened(file, self.note) as source:
                yield source.name, "".join(source.pieces())

    def _file(self, file: str) -> Row:
        with opened(file, self.note) as source:
            return self._whole(source.name, source.pieces())

    def _whole(self, name: str, pieces: Iterable[str]) -> Row:
        """Score one text as a stream, painting it on the way."""
        for painter in self.painters:
            painter.begin(name)
        parts = list[ScoreProgress]()
        stream = self._stream(pieces, return_text=self.in_detail or bool(self.painters))
        with _naming(name), stream:
            for progress in stream:
                for painter in self.painters:
                    painter.add(progress.latest)
                if self.in_detail:
                    parts.append(progress)
            return self._row(name, collected(parts, self._keep(stream)))

    def _stream(
        self, pieces: Iterable[str], *, join: bool = True, windows: WindowSize | None = None, return_text: bool = False
    ) -> ScoreStream:
        options: ScoreOptions = {**self.options, "windows": windows}
        return self.client.score_stream(
            pieces, join=join, return_text=return_text, return_ticket=self.return_ticket, **options
        )

    def _keep(self, stream: ScoreStream) -> Score:
        assert stream.finished
        self.keep(stream.finished)
        return stream.finished

    def _each(
        self, items: Iterable[tuple[_Item, str]], name_of: Callable[[_Item], str]
    ) -> Iterator[tuple[_Item, Score]]:
        """Yield each item with the score of its text; a refusal names the item by `name_of`."""
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

    def _in_bursts(
        self, items: Iterator[tuple[_Item, str] | None], name_of: Callable[[_Item], str]
    ) -> Iterator[tuple[_Item, Score]]:
        """Like `_each`, but yield all pending scores at each None, which says that the next item must be waited for."""
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
        return Row(name, score, score.text if self.in_detail else None)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put `name` into the refusal of a text."""
    try:
        yield
    except InvalidRequest as error:
        rename_in_error(name, error)
        raise


def _window_scores(stream: Iterable[ScoreProgress]) -> Iterator[tuple[WindowScore, Score]]:
    """Yield each window with its own score, which has the text and the per-character values that the stream has."""
    rest = Score()  # of the characters after the last window
    for progress in stream:
        read = Score.merge([rest, replace(progress.latest, windows=())])
        first = scored = 0
        for window in progress.latest.windows:
            end, scored_end = first + window.character_count, scored + window.scored_count
            score = replace(
                _characters(read, slice(first, end), slice(scored, scored_end)),
                sum_log_probability=window.sum_log_probability,
                scored_count=window.scored_count,
                unknown_count=window.unknown_count,
            )
            yield window, score
            first, scored = end, scored_end
        rest = _characters(read, slice(first, None), slice(scored, None))


def _characters(score: Score, characters: slice, scored: slice) -> Score:
    """Return the text and the per-character values of a part, without its sums."""
    return Score(
        log_probabilities=score.log_probabilities[scored],
        ranks=score.ranks[scored],
        alternatives=score.alternatives[scored],
        text=score.text[characters],
    )


def _label(text: str) -> str:
    shortened = text if len(text) <= LABEL_CHARACTERS else f"{text[: LABEL_CHARACTERS - 1]}…"
    return json.dumps(shortened, ensure_ascii=False)
