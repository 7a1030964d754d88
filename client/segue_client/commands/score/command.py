"""`segue score`."""

from pathlib import Path
from typing import Any, Final

import click

from segue_client.commands.options import JSON, TICKET_IN, UNKNOWN, VERBATIM, connected
from segue_client.commands.score.arguments import Arguments

_FILE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True)
_NEW_FILE: Final = click.Path(dir_okay=False, path_type=Path)

_EXAMPLES: Final = """\b
Examples:
  segue score --lines app.log --sort surprising --top 10
  segue score --jsonl corpus.jsonl | jq -c 'select(.score.perplexity | . != null and . < 8)'
  segue score --context "The cats " --candidate was --candidate were
"""


@click.command(epilog=_EXAMPLES)
@click.argument("files", nargs=-1, type=_FILE)
@click.option("--text", "texts", multiple=True, help="Score this text. Repeatable.")
@click.option("--lines", is_flag=True, help="Score each line as its own text; skip empty ones.")
@click.option("--carry", is_flag=True, help="With --lines: score each line as the next part of one text.")
@click.option("--window", type=click.IntRange(min=1), metavar="N", help="Score every N characters of one text.")
@click.option(
    "--jsonl", is_flag=True, help="Read JSON lines; print each object with its score. Blank lines are left out."
)
@click.option("--field", default="text", show_default=True, help="With --jsonl: field that holds the text.")
@click.option("--into", default="score", show_default=True, help="With --jsonl: field to add with the score.")
@click.option(
    "--bad-rows",
    type=click.Choice(["stop", "keep", "skip"]),
    default="stop",
    show_default=True,
    help="A row that cannot be scored: stop there, print it with its error, or leave it out. Counts them at the end.",
)
@click.option("--context", metavar="TEXT", help="Rank continuations of this text instead of scoring FILES.")
@click.option("--candidate", "candidates", multiple=True, metavar="TEXT", help="A continuation to rank. Repeatable.")
@click.option("--candidates", "candidates_file", type=_FILE, help="Rank each line of this file.")
@click.option(
    "--ranking",
    type=click.Choice(["sum", "mean"]),
    default="sum",
    show_default=True,
    help="Rank by log-probability: of the whole candidate, or its mean per character.",
)
@connected
@UNKNOWN
@VERBATIM
@click.option(
    "--begin",
    type=click.Choice(["nothing", "begin"]),
    help="What precedes a text.  [default: begin for --lines, --context and models of documents, else nothing]",
)
@click.option(
    "--end",
    type=click.Choice(["nothing", "line-feed"]),
    help="What to add to a text that does not end with it.  [default: line-feed for --lines, else nothing]",
)
@TICKET_IN
@click.option("--session", metavar="NAME", help="Continue this session with one text, and advance it.")
@click.option("--inexact", is_flag=True, help="Also continue a state from another class of host, with other rounding.")
@click.option("--ticket-out", type=_NEW_FILE, help="Save the state after the one text, or the context, to this file.")
@click.option("--sort", type=click.Choice(["surprising", "expected"]), help="Print the most or least surprising first.")
@click.option(
    "--by",
    type=click.Choice(["mean", "sum"]),
    default="mean",
    show_default=True,
    help="With --sort: by the mean per character, or by the whole.",
)
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="With --sort: keep and print only N rows.")
@click.option(
    "--threshold",
    type=click.FloatRange(min=0),
    metavar="BITS",
    help="Exit with status 3 if a text has more bits per character than this.",
)
@JSON
@click.option("--per-character", is_flag=True, help="With --json: add the log-probability of each character.")
@click.option("--ranks", is_flag=True, help="With --json: add the rank of each character; 1 is the most probable.")
@click.option(
    "--alternatives",
    type=click.IntRange(0, 20),
    default=0,
    metavar="N",
    help="With --json or --html: add the N most probable in place of each character.",
)
@click.option(
    "--heatmap/--no-heatmap",
    default=None,
    help="Colour each character by its surprisal.  [default: on a terminal, up to a screenful]",
)
@click.option("--html", type=_NEW_FILE, metavar="FILE", help="Write a page of coloured characters to this file.")
@click.option("--running", is_flag=True, help="Print the score of one FILE so far, again and again, while it is read.")
@click.option(
    "--progress/--no-progress", default=None, help="Show how much was read.  [default: if nothing else shows it]"
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Concurrent requests.",
)
@click.option(
    "--no-resume", is_flag=True, help="Fail with the server instead of resuming on another or once it is back."
)
@click.pass_context
def score(ctx: click.Context, /, **options: Any) -> None:
    """Measure how probable the model finds each of FILES (UTF-8; "-" is standard input).

    Prints a row for each file, in the order of FILES: mean surprisal in bits, perplexity, log-probability in nats, how
    many characters were scored, and how many of those the model does not know. Files of any size, and endless standard
    input, are scored as they are read, in constant memory. A model of documents scores each line of a file, with its
    line end, as with --lines.

    Exit status: 0; 1 on failure; 2 on bad input, after the rows of what precedes it; 3 if a text is more surprising
    than --threshold, whatever else; 4 if --bad-rows kept or skipped rows; 130 if interrupted; 141 if the output is no
    longer read.
    """
    arguments = Arguments(**options)
    from segue_client.commands.score.run import run

    ctx.exit(run(arguments))
