"""What `segue score` does."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Final

import click

from segue_client._sync.client import Client
from segue_client.commands.atomic_file import write_ticket
from segue_client.commands.score.arguments import Arguments
from segue_client.commands.score.html_page import HtmlPage, html_page
from segue_client.commands.score.inputs import opened, size_of
from segue_client.commands.score.printing import (
    ColouredTablePrinter,
    JsonPrinter,
    RowPrinter,
    TablePrinter,
    TerminalPainter,
    print_json,
    print_ranking,
)
from segue_client.commands.score.progress_bar import Bar
from segue_client.commands.score.records import scored
from segue_client.commands.score.rows import Row, score_fields
from segue_client.commands.score.scorer import Painter, Scorer
from segue_client.commands.score.sorting import sorted_rows
from segue_client.messages.model import Model
from segue_client.messages.score import Score
from segue_client.messages.score_request import TEXTS_PER_CALL_WITH_TICKETS, ScoreOptions

HEATMAP_BYTES: Final = 2000
"""Up to how much text is coloured without being asked for: about one screen."""

HTML_ALTERNATIVES: Final = 5
"""How many of the likeliest a page shows, unless told otherwise."""


def run(arguments: Arguments) -> bool:
    """Do what was asked; return whether a text was more surprising than the threshold."""
    with Client(
        arguments.server, tenant=arguments.tenant, timeout=arguments.timeout, resume=not arguments.no_resume
    ) as client:
        if arguments.mode == "candidates":
            _rank(client, arguments)
            return False
        return _Run(client, arguments).run()


def _rank(client: Client, arguments: Arguments) -> None:
    candidates = list(arguments.candidates)
    if arguments.candidates_file:
        with opened(arguments.candidates_file) as source:
            candidates += [line for line in source.lines() if line]
    if arguments.ticket_out and len(candidates) > TEXTS_PER_CALL_WITH_TICKETS:
        raise click.UsageError(
            f"--ticket-out goes with up to {TEXTS_PER_CALL_WITH_TICKETS} candidates, here are {len(candidates):,}: "
            "rank them without it, and keep the state behind the context with "
            "`segue score --text CONTEXT --begin begin --ticket-out FILE`"
        )
    ranking = client.score_candidates(
        arguments.context or "",
        candidates,
        ranking=arguments.ranking,
        model=arguments.model,
        version=arguments.model_version,
        ticket=arguments.ticket_in.read_bytes() if arguments.ticket_in else None,
        session=arguments.session,
        exact=not arguments.inexact,
        unknown=arguments.unknown,
        begin=arguments.begin,
        end=arguments.end or "nothing",
        log_probabilities=arguments.per_character,
        return_tickets=arguments.ticket_out is not None,
    )
    print_ranking(ranking, as_json=arguments.as_json)
    _keep(ranking.context, arguments)


class _Run:
    """One run over files and texts."""

    def __init__(self, client: Client, arguments: Arguments) -> None:
        self._client = client
        self._arguments = arguments
        self._is_heatmap = not arguments.as_json and _is_heatmap(arguments)
        self._exceeded = False
        """Whether a row was more surprising than the threshold."""
        self._model: Model | None = None
        if arguments.html or (arguments.files and arguments.mode == "texts"):
            self._model = client.model(arguments.model, arguments.model_version)
        if arguments.files and arguments.mode == "texts" and self._is_by_line:
            _check_documents(arguments)

    def run(self) -> bool:
        """Print everything; return whether a row was more surprising than the threshold."""
        arguments = self._arguments
        with ExitStack() as stack:
            bar = stack.enter_context(Bar(_total(arguments.files), is_shown=_shows_bar(arguments)))
            page = stack.enter_context(html_page(arguments.html)) if arguments.html else None
            self._print(bar, page)
        return self._exceeded

    def _print(self, bar: Bar, page: HtmlPage | None) -> None:
        scorer, arguments = self._scorer(bar), self._arguments
        if arguments.mode == "records":
            for file in arguments.files:
                for record, row in scorer.records(file, arguments.field):
                    self._judge(row)
                    with bar.aside():
                        print_json(scored(record, score_fields(row.score), arguments.into, row.name))
            return
        is_whole = arguments.mode == "texts" and not self._is_by_line
        rows = self._judged(self._whole_rows(scorer, page) if is_whole else self._part_rows(scorer))
        if arguments.sort:
            rows = sorted_rows(rows, arguments.sort, arguments.by, arguments.top)
        printer = self._printer(is_whole=is_whole)
        for row in rows:
            with bar.aside():
                printer.row(row)
            if page and not is_whole:
                page.begin(row.name)
                page.add(row.score)
        with bar.aside():
            printer.end()

    def _judged(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self._judge(row)
            yield row

    def _judge(self, row: Row) -> None:
        """Hold a row against the threshold; of one text that comes along, only the last row stands."""
        exceeds = _exceeds(row.score, self._arguments.threshold)
        self._exceeded = exceeds or (self._exceeded and not self._arguments.running)

    @property
    def _is_by_line(self) -> bool:
        """Whether files are scored line by line."""
        arguments = self._arguments
        return arguments.mode == "lines" or (
            arguments.mode == "texts" and self._model is not None and self._model.documents == "lines"
        )

    def _whole_rows(self, scorer: Scorer, page: HtmlPage | None) -> Iterator[Row]:
        files, texts = self._arguments.files, self._arguments.texts
        if self._arguments.running:
            return scorer.running(files[0])
        if self._is_heatmap:
            return _below(
                TerminalPainter(), lambda painter: self._painted(scorer, [painter, *([page] if page else [])])
            )
        if page:
            return self._painted(scorer, [page])
        return chain(scorer.files(files), scorer.texts(texts))

    def _painted(self, scorer: Scorer, painters: Sequence[Painter]) -> Iterator[Row]:
        arguments = self._arguments
        yield from scorer.painted_files(arguments.files, painters, collects=arguments.as_json)
        yield from scorer.painted_texts(arguments.texts, painters, collects=arguments.as_json)

    def _part_rows(self, scorer: Scorer) -> Iterator[Row]:
        arguments = self._arguments
        for file in arguments.files:
            if arguments.mode == "windows":
                yield from scorer.windows(file, arguments.window or "lines")
            else:
                yield from scorer.lines(file, with_end=arguments.end != "nothing")
        yield from scorer.texts(arguments.texts)

    def _printer(self, *, is_whole: bool) -> RowPrinter:
        arguments = self._arguments
        if arguments.as_json:
            return JsonPrinter()
        with_total = arguments.top is None and not arguments.running
        return (ColouredTablePrinter if self._is_heatmap and not is_whole else TablePrinter)(with_total=with_total)

    def _scorer(self, bar: Bar) -> Scorer:
        arguments = self._arguments
        in_colour = self._is_heatmap or arguments.html is not None
        return Scorer(
            client=self._client,
            options=self._options(in_colour=in_colour),
            jobs=arguments.jobs,
            in_detail=in_colour or arguments.per_character or arguments.ranks or arguments.alternatives > 0,
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
            "model": arguments.model,
            "version": arguments.model_version,
            "ticket": arguments.ticket_in.read_bytes() if arguments.ticket_in else None,
            "session": arguments.session,
            "exact": not arguments.inexact,
            "unknown": arguments.unknown,
            "begin": begin,
            "end": arguments.end or "nothing",
            "log_probabilities": arguments.per_character or in_colour,
            "ranks": arguments.ranks or knows_ranks,
            "top_alternatives": arguments.alternatives or (HTML_ALTERNATIVES if knows_ranks else 0),
        }


def _check_documents(arguments: Arguments) -> None:
    """Refuse what is for one text, where each line of a file is one."""
    each = "this is a model of documents, so that each line of a file is a text of its own"
    if arguments.running:
        raise click.UsageError(f"{each}: leave --running out, a line's row comes as soon as the line does")
    for option, value in (("--ticket-out", arguments.ticket_out), ("--session", arguments.session)):
        if value:
            raise click.UsageError(f"{each}: {option} goes with one --text")


def _below(terminal: TerminalPainter, paint: Callable[[Painter], Iterator[Row]]) -> Iterator[Row]:
    """Yield rows once all texts have been painted, or those before the one that failed."""
    rows, failure = list[Row](), None
    try:
        for row in paint(terminal):
            rows.append(row)
    except Exception as error:  # noqa: BLE001 - it is raised below
        failure = error
    terminal.end()
    yield from rows
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
    """Whether a bar tells something that the output does not."""
    if arguments.progress is not None:
        return arguments.progress
    prints_as_it_comes = sys.stdout.isatty() and not arguments.sort
    return bool(arguments.files) and sys.stderr.isatty() and not prints_as_it_comes


def _total(files: Iterable[str]) -> int | None:
    """Return how many bytes all of them have; None where nobody knows."""
    sizes = [size_of(file) for file in files]
    return None if None in sizes else sum(size for size in sizes if size)


def _exceeds(score: Score, threshold: float | None) -> bool:
    bits = score.bits_per_character
    return threshold is not None and bits is not None and bits > threshold


def _keep(score: Score, arguments: Arguments) -> None:
    if arguments.ticket_out and score.ticket:
        write_ticket(arguments.ticket_out, score.ticket)
