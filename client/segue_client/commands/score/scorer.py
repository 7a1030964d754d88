"""Turns files, texts, lines, windows and records into rows, by way of a server."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Final, Literal, TypeAlias, TypeVar

from segue_client._sync.client import Client
from segue_client._sync.concurrency import in_order
from segue_client._sync.score_stream import ScoreStream
from segue_client.commands.flags import in_flags
from segue_client.commands.score.bad_rows import BadRow
from segue_client.commands.score.byte_lines import ByteLine
from segue_client.commands.score.html_page import HtmlPage
from segue_client.commands.score.inputs import Input, opened, size_of
from segue_client.commands.score.printing import TerminalPainter
from segue_client.commands.score.records import Record, read_records
from segue_client.commands.score.rows import Row
from segue_client.errors import InvalidRequest
from segue_client.messages.score import Score
from segue_client.messages.score_request import ScoreOptions
from segue_client.messages.windows import WindowScore, WindowSize
from segue_client.protocol.batching import Outcome, is_about_a_text, rename_in_error
from segue_client.protocol.score_stream import ScoreProgress, collected

SMALL_BYTES: Final = 65_536
"""Files up to this size share calls; larger ones are streamed."""

SHOWN_WINDOW: Final = 10_000
"""The largest window, in characters, that is shown with its text."""

LABEL_CHARACTERS: Final = 40
"""The length to which a --text is cut where it serves as a name."""

BAD_IN_A_BURST: Final = 1000
"""How many bad rows may wait for the scores of those before them."""

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
    goes_on: bool = False
    """Whether a bad row is yielded with its error, instead of being raised."""
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
                    yield from self._rows(self._small_texts(run))
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
            yield from self._rows(iter(items))

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
            items = (None if line is None else (line, _line_text(source, line, end)) for line in source.lines())
            for line, outcome in self._in_bursts(items, source.place):
                text = line.data.decode(errors="surrogateescape")
                yield self._row(source.place(line), outcome, text, {"line": line.number})

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

    def records(self, file: str, field: str, into: str) -> Iterator[tuple[Record, Row]]:
        """Yield each record of a JSON lines file with the row of its text; see `read_records`."""
        with opened(file, self.note) as source:

            def name_of(record: Record) -> str:
                return source.place(record.line)

            for record, outcome in self._in_bursts(read_records(source, field, into), name_of):
                yield record, self._row(name_of(record), outcome)

    def _kind(self, file: str) -> Literal["small", "large", "one at a time"]:
        size = size_of(file)
        if size is None or self.painters:
            return "one at a time"
        return "small" if size <= SMALL_BYTES and file != "-" and not self.return_ticket else "large"

    def _small_texts(self, files: Iterable[str]) -> Iterator[tuple[str, str | BadRow]]:
        for file in files:
            with opened(file, self.note) as source:
                yield source.name, _text_or_refusal(partial("".join, source.pieces()))

    def _file(self, file: str) -> Row:
        with opened(file, self.note) as source:
            return self._whole(source.name, source.pieces())

    def _whole(self, name: str, pieces: Iterable[str]) -> Row:
        """Score one text as a stream, painting it on the way."""
        try:
            return self._painted(name, pieces)
        except BadRow as error:
            if not self.goes_on:
                raise
            return self._row(name, error)

    def _painted(self, name: str, pieces: Iterable[str]) -> Row:
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

    def _rows(self, items: Iterator[tuple[str, str | BadRow]]) -> Iterator[Row]:
        """Yield a row for each named text."""
        return (self._row(name, outcome) for name, outcome in self._in_bursts(items, str))

    def _each(
        self, items: Iterable[tuple[_Item, str | BadRow]], name_of: Callable[[_Item], str]
    ) -> Iterator[tuple[_Item, Outcome]]:
        """Yield each item with what becomes of its text; a refusal names the item by `name_of`."""
        sent = deque[tuple[_Item, BadRow | None]]()

        def texts() -> Iterator[str]:
            for item, text in items:
                if not isinstance(text, BadRow):
                    sent.append((item, None))
                    yield text
                elif self.goes_on:
                    sent.append((item, text))
                else:
                    raise text

        outcomes = self._outcomes(texts())
        try:
            for outcome in outcomes:
                yield from _bad_ones(sent)
                item, _ = sent.popleft()
                if isinstance(outcome, InvalidRequest):
                    rename_in_error(name_of(item), outcome)
                yield item, outcome
            yield from _bad_ones(sent)
        except InvalidRequest as error:
            with _naming(name_of(sent[0][0])) if sent else nullcontext():
                raise error from None

    def _outcomes(self, texts: Iterator[str]) -> Iterator[Outcome]:
        score = self.client.try_score_each if self.goes_on else self.client.score_each
        return score(texts, jobs=self.jobs, **self.options, return_texts=self.in_detail)

    def _in_bursts(
        self, items: Iterator[tuple[_Item, str | BadRow] | None], name_of: Callable[[_Item], str]
    ) -> Iterator[tuple[_Item, Outcome]]:
        """Like `_each`, but yield all that is pending at each None, which says that the next item must be waited for.

        The same after many bad rows, so that they do not fill the memory.
        """
        has_ended = False

        def burst() -> Iterator[tuple[_Item, str | BadRow]]:
            nonlocal has_ended
            bad = 0
            for item in items:
                if item is None:
                    return
                yield item
                bad += isinstance(item[1], BadRow)
                if bad == BAD_IN_A_BURST:
                    return
            has_ended = True

        while not has_ended:
            yield from self._each(burst(), name_of)

    def _row(
        self, name: str, outcome: Outcome, text: str | None = None, place: Mapping[str, object] | None = None
    ) -> Row:
        """Return a row with its text, or with that which was read."""
        if isinstance(outcome, InvalidRequest):
            return Row(name, Score(), text, place or {}, in_flags(str(outcome)))
        return Row(name, outcome, outcome.text if self.in_detail else text, place or {})


def _line_text(source: Input, line: ByteLine, end: str) -> str | BadRow:
    return _text_or_refusal(lambda: source.decoded(line) + end)


def _text_or_refusal(read: Callable[[], str]) -> str | BadRow:
    try:
        return read()
    except BadRow as error:
        return error


def _bad_ones(sent: deque[tuple[_Item, BadRow | None]]) -> Iterator[tuple[_Item, BadRow]]:
    """Yield the bad rows at the front."""
    while sent and (error := sent[0][1]):
        yield sent.popleft()[0], error


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn the refusal of a text into that of the row `name`."""
    try:
        yield
    except InvalidRequest as error:
        if not is_about_a_text(error):
            raise
        rename_in_error(name, error)
        raise BadRow(str(error), reason=error.reason) from error


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
