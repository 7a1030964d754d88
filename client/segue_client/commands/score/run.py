"""Runs `segue score`."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Final

import click

from segue_client._sync.client import Client
from segue_client.commands.atomic_file import write_ticket
from segue_client.commands.score.arguments import Arguments
from segue_client.commands.score.bad_rows import REMEDY, BadRow, Tally
from segue_client.commands.score.html_page import HtmlPage, html_page
from segue_client.commands.score.inputs import opened, size_of
from segue_client.commands.score.printing import (
    Bar,
    JsonPrinter,
    TablePrinter,
    TerminalPainter,
    print_ranking,
)
from segue_client.commands.score.records import Record
from segue_client.commands.score.rows import Row, score_fields, sorted_rows
from segue_client.commands.score.scorer import Painter, Scorer
from segue_client.commands.standard_streams import discard_output
from segue_client.messages.score import Score
from segue_client.messages.score_request import TEXTS_PER_CALL_WITH_TICKETS, ReadingOptions, ScoreOptions

HEATMAP_BYTES: Final = 2000
"""The largest text that is coloured without being asked for: about one screen."""

HTML_ALTERNATIVES: Final = 5
"""How many alternatives a page shows by default."""


TOO_SURPRISING: Final = 3
"""The exit status if a text was more surprising than the threshold."""

INCOMPLETE: Final = 4
"""The exit status if rows could not be scored, and the run went on."""


def run(arguments: Arguments) -> int:
    """Do what the arguments ask for; return the exit status."""
    with arguments.connection.client(resume=not arguments.no_resume) as client:
        if arguments.mode == "candidates":
            _rank(client, arguments)
            return 0
        return _Run(client, arguments).run()


def _rank(client: Client, arguments: Arguments) -> None:
    candidates = list(arguments.candidates)
    if arguments.candidates_file:
        with opened(arguments.candidates_file) as source:
            candidates += [source.decoded(line) for line in source.lines() if line]
    if arguments.ticket_out and len(candidates) > TEXTS_PER_CALL_WITH_TICKETS:
        raise click.UsageError(
            f"--ticket-out goes with up to {TEXTS_PER_CALL_WITH_TICKETS} candidates, here are {len(candidates):,}: "
            "rank them without it, and save the state after the context with "
            "`segue score --text CONTEXT --begin begin --ticket-out FILE`"
        )
    ranking = client.score_candidates(
        arguments.context or "",
        candidates,
        ranking=arguments.ranking,
        return_tickets=arguments.ticket_out is not None,
        **_reading(arguments),
    )
    _keep(ranking.context, arguments)  # first, in case nobody reads the output
    print_ranking(ranking, as_json=arguments.as_json)


class _Run:
    """One run over files and texts."""

    def __init__(self, client: Client, arguments: Arguments) -> None:
        self._client = client
        self._arguments = arguments
        self._exceeded = False
        """Whether a row was more surprising than the threshold."""
        self._tally = Tally()
        self._unread: BrokenPipeError | None = None
        """Why nothing is printed any more."""
        has_whole_files = arguments.mode == "texts" and bool(arguments.files)
        connection = arguments.connection
        needs_model = has_whole_files or arguments.html
        self._model = client.model(connection.model, connection.version) if needs_model else None
        is_of_documents = self._model is not None and self._model.documents == "lines"
        if has_whole_files and is_of_documents:
            _check_documents(arguments)
        self._is_by_line = arguments.mode == "lines" or (arguments.mode == "texts" and is_of_documents)
        self._is_whole = arguments.mode == "texts" and not self._is_by_line
        self._is_heatmap = not arguments.as_json and _is_heatmap(arguments)

    def run(self) -> int:
        """Print everything; return the exit status."""
        try:
            self._print()
        except BadRow as error:
            if self._is_by_line or self._arguments.mode == "records":
                error.args = (f"{error}; {REMEDY}",)
            raise
        finally:
            if self._tally.bad:
                click.echo(self._tally.summary, err=True)
        if self._unread:
            raise self._unread
        if self._exceeded:
            return TOO_SURPRISING
        return INCOMPLETE if self._tally.bad else 0

    def _print(self) -> None:
        arguments = self._arguments
        with ExitStack() as stack:
            bar = stack.enter_context(Bar(_total(arguments.files), is_shown=_shows_bar(arguments)))
            page = stack.enter_context(html_page(arguments.html)) if arguments.html else None
            if arguments.mode == "records":
                self._print_records(self._scorer(bar, []), bar)
            else:
                self._print_rows(bar, page)

    @contextmanager
    def _printing(self, bar: Bar) -> Iterator[None]:
        """Print on standard output; where a file is written too, go on for its sake when nobody reads the output."""
        arguments = self._arguments
        with bar.aside():
            try:
                yield
            except BrokenPipeError as error:
                if not (arguments.html or arguments.ticket_out):
                    raise
                self._unread = error
                discard_output()

    def _print_records(self, scorer: Scorer, bar: Bar) -> None:
        arguments = self._arguments
        for file in arguments.files:
            for record, row in scorer.records(file, arguments.field, arguments.into):
                if self._is_printed(row):
                    with bar.aside():
                        click.echo(_record_line(record, row, arguments.into))

    def _print_rows(self, bar: Bar, page: HtmlPage | None) -> None:
        printer = self._printer()
        for row in self._rows(bar, page):
            with self._printing(bar):
                printer.row(row)
            if page and not self._is_whole:
                page.row(row)
        with self._printing(bar):
            printer.end()

    def _rows(self, bar: Bar, page: HtmlPage | None) -> Iterator[Row]:
        """Return the rows in the order in which they are printed."""
        arguments = self._arguments
        terminal = TerminalPainter(partial(self._printing, bar)) if self._is_whole and self._is_heatmap else None
        painters: list[Painter] = [terminal] if terminal else []
        if page and self._is_whole:
            painters.append(page)
        scorer = self._scorer(bar, painters)
        rows = self._whole_rows(scorer) if self._is_whole else self._part_rows(scorer)
        rows = self._judged(_after_painting(terminal, rows) if terminal else rows)
        return sorted_rows(rows, arguments.sort, arguments.by, arguments.top) if arguments.sort else rows

    def _judged(self, rows: Iterable[Row]) -> Iterator[Row]:
        return (row for row in rows if self._is_printed(row))

    def _is_printed(self, row: Row) -> bool:
        """Count a row, and compare it with the threshold; of a running score only the last row counts."""
        self._tally.note(row.error)
        bits, threshold = row.score.bits_per_character, self._arguments.threshold
        exceeds = threshold is not None and bits is not None and bits > threshold
        self._exceeded = exceeds or (self._exceeded and not self._arguments.running)
        return row.error is None or self._arguments.bad_rows == "keep"

    def _whole_rows(self, scorer: Scorer) -> Iterator[Row]:
        files, texts = self._arguments.files, self._arguments.texts
        return scorer.running(files[0]) if self._arguments.running else chain(scorer.files(files), scorer.texts(texts))

    def _part_rows(self, scorer: Scorer) -> Iterator[Row]:
        arguments = self._arguments
        for file in arguments.files:
            if arguments.mode == "windows":
                yield from scorer.windows(file, arguments.window or "lines")
            else:
                yield from scorer.lines(file, with_end=arguments.end != "nothing")
        yield from scorer.texts(arguments.texts)

    def _printer(self) -> JsonPrinter | TablePrinter:
        arguments = self._arguments
        if arguments.as_json:
            return JsonPrinter()
        with_total = arguments.top is None and not arguments.running
        return TablePrinter(with_total=with_total, in_colour=self._is_heatmap and not self._is_whole)

    def _scorer(self, bar: Bar, painters: list[Painter]) -> Scorer:
        arguments = self._arguments
        in_colour = self._is_heatmap or arguments.html is not None
        in_detail = in_colour or arguments.per_character or arguments.ranks or arguments.alternatives > 0
        return Scorer(
            client=self._client,
            options=self._options(in_colour=in_colour),
            jobs=arguments.jobs,
            goes_on=arguments.bad_rows != "stop",
            in_detail=arguments.as_json if painters else in_detail,  # painted texts may be too long to keep
            painters=painters,
            return_ticket=arguments.ticket_out is not None,
            keep=lambda score: _keep(score, arguments),
            note=bar.note,
        )

    def _options(self, *, in_colour: bool) -> ScoreOptions:
        arguments = self._arguments
        knows_ranks = arguments.html is not None and self._model is not None and self._model.alphabet != "bytes"
        begin = arguments.begin
        if begin is None and self._is_by_line and arguments.ticket_in is None:
            begin = "begin"
        return {
            **_reading(arguments),
            "begin": begin,
            "log_probabilities": arguments.per_character or in_colour,
            "ranks": arguments.ranks or knows_ranks,
            "top_alternatives": arguments.alternatives or (HTML_ALTERNATIVES if knows_ranks else 0),
            "windows": None,
        }


def _record_line(record: Record, row: Row, into: str) -> bytes:
    if row.error is not None:
        return record.with_error(row.error, into)
    return record.with_field(into, score_fields(row.score))


def _reading(arguments: Arguments) -> ReadingOptions:
    return {
        "model": arguments.connection.model,
        "version": arguments.connection.version,
        "ticket": arguments.ticket_in.read_bytes() if arguments.ticket_in else None,
        "session": arguments.session,
        "exact": not arguments.inexact,
        "unknown": arguments.unknown,
        "verbatim": arguments.verbatim,
        "begin": arguments.begin,
        "end": arguments.end or "nothing",
        "log_probabilities": arguments.per_character,
    }


def _check_documents(arguments: Arguments) -> None:
    """Refuse options for one text if each line of a file is one."""
    each = "this is a model of documents, so each line of a file is a text of its own"
    if arguments.running:
        raise click.UsageError(f"{each}: leave --running out, each line is printed as soon as it is scored")
    for option, value in (("--ticket-out", arguments.ticket_out), ("--session", arguments.session)):
        if value:
            raise click.UsageError(f"{each}: {option} goes with one --text")


def _after_painting(terminal: TerminalPainter, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows once all texts are painted; if one fails, yield those before it, then raise."""
    painted, failure = list[Row](), None
    try:
        for row in rows:
            painted.append(row)
    except Exception as error:  # noqa: BLE001 - it is raised below
        failure = error
    terminal.end()
    yield from painted
    if failure:
        raise failure


def _is_heatmap(arguments: Arguments) -> bool:
    """Whether texts are coloured on the terminal."""
    if arguments.heatmap is not None or arguments.html or arguments.mode == "records" or arguments.running:
        return bool(arguments.heatmap)
    size = _total(arguments.files)
    is_small = size is not None and size + sum(map(len, arguments.texts)) <= HEATMAP_BYTES
    return is_small and sys.stdout.isatty()


def _shows_bar(arguments: Arguments) -> bool:
    """Whether a bar shows something that the output does not."""
    if arguments.progress is not None:
        return arguments.progress
    prints_on_the_way = sys.stdout.isatty() and not arguments.sort
    return bool(arguments.files) and sys.stderr.isatty() and not prints_on_the_way


def _total(files: Iterable[str]) -> int | None:
    """Return the size of all files together in bytes, or None if it is unknown."""
    sizes = [size_of(file) for file in files]
    return None if None in sizes else sum(size for size in sizes if size)


def _keep(score: Score, arguments: Arguments) -> None:
    if arguments.ticket_out and score.ticket:
        write_ticket(arguments.ticket_out, score.ticket)
