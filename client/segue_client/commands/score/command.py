"""`segue score`."""

from pathlib import Path
from typing import Any, Final

import click

from segue_client.commands.options import JSON, MODEL, MODEL_VERSION, SERVER, TENANT, TICKET_IN, TIMEOUT, UNKNOWN
from segue_client.commands.score.arguments import Arguments

TOO_SURPRISING: Final = 3
"""The exit status where a text is more surprising than --threshold."""

_FILE: Final = click.Path(exists=True, dir_okay=False, allow_dash=True)
_NEW_FILE: Final = click.Path(dir_okay=False, path_type=Path)

_EXAMPLES: Final = """\b
Examples:
  segue score --lines app.log --sort surprising --top 10
  segue score --jsonl corpus.jsonl | jq -c 'select(.score.perplexity < 8)'
  segue score --context "The cats " --candidate was --candidate were
"""


@click.command(epilog=_EXAMPLES)
@click.argument("files", nargs=-1, type=_FILE)
@click.option("--text", "texts", multiple=True, help="Score this text. Repeatable.")
@click.option("--lines", is_flag=True, help="Score each line that is not empty as a text of its own.")
@click.option("--carry", is_flag=True, help="With --lines: as the next part of one running text.")
@click.option("--window", type=click.IntRange(min=1), metavar="N", help="Score each N characters of a running text.")
@click.option("--jsonl", is_flag=True, help="Read JSON lines; print each object with its score.")
@click.option("--field", default="text", show_default=True, help="With --jsonl: the field that holds the text.")
@click.option("--into", default="score", show_default=True, help="With --jsonl: the field to put the score into.")
@click.option("--context", metavar="TEXT", help="Rank what may follow this text, instead of scoring FILES.")
@click.option("--candidate", "candidates", multiple=True, metavar="TEXT", help="What may follow. Repeatable.")
@click.option("--candidates", "candidates_file", type=_FILE, help="The same, each line of this file.")
@click.option(
    "--ranking",
    type=click.Choice(["sum", "mean"]),
    default="sum",
    show_default=True,
    help="Rank by the whole candidate, or by the mean of its characters.",
)
@SERVER
@TENANT
@MODEL
@MODEL_VERSION
@UNKNOWN
@click.option(
    "--begin",
    type=click.Choice(["nothing", "begin"]),
    help="What stands before a text.  [default: begin for --lines, --context and models of documents, else nothing]",
)
@click.option(
    "--end",
    type=click.Choice(["nothing", "line-feed"]),
    help="What is added to a text that does not end with it.  [default: line-feed for --lines, else nothing]",
)
@TICKET_IN
@click.option("--session", metavar="NAME", help="Go on from this session with one text, and advance it.")
@click.option("--inexact", is_flag=True, help="Go on from a state of another kind of host too, rounding otherwise.")
@click.option("--ticket-out", type=_NEW_FILE, help="Keep the state behind the one text, or the context, in this file.")
@click.option(
    "--sort", type=click.Choice(["surprising", "expected"]), help="Print the most, or least, surprising first."
)
@click.option(
    "--by",
    type=click.Choice(["mean", "sum"]),
    default="mean",
    show_default=True,
    help="With --sort: by the mean of the characters, or by the whole.",
)
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="With --sort: print and keep N rows alone.")
@click.option(
    "--threshold",
    type=float,
    metavar="BITS",
    help="End with status 3 where a text has more bits a character than this.",
)
@JSON
@click.option("--per-character", is_flag=True, help="With --json: the log-probability of each character too.")
@click.option("--ranks", is_flag=True, help="With --json: the rank of each character too; 1 is the likeliest.")
@click.option(
    "--alternatives",
    type=click.IntRange(0, 20),
    default=0,
    metavar="N",
    help="With --json or --html: the N likeliest in the place of each character too.",
)
@click.option(
    "--heatmap/--no-heatmap",
    default=None,
    help="Colour each character by its surprisal.  [default: of a screenful, on a terminal]",
)
@click.option("--html", type=_NEW_FILE, metavar="FILE", help="Write a page with each character coloured to this file.")
@click.option("--running", is_flag=True, help="Print the score of one FILE so far, again and again, as it comes.")
@click.option(
    "--progress/--no-progress", default=None, help="Show how much was read.  [default: where nothing else tells]"
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="How many requests are on their way at once.",
)
@click.option("--no-resume", is_flag=True, help="End with the server, instead of going on once there is one again.")
@TIMEOUT
@click.pass_context
def score(ctx: click.Context, /, **options: Any) -> None:
    """Measure how probable the model finds each of FILES (UTF-8; "-" is standard input).

    A row tells of each file, in the order of FILES: mean surprisal in bits, perplexity, log-probability in nats, how
    many characters were scored, and how many of those the model does not know. Files of any size, and a standard input
    that never ends, are read as they come, in memory that does not grow. A model of documents scores each line of a
    file, with its end, as with --lines.

    Exit status: 0; 1 where it failed; 2 where the input is at fault, behind the rows of what comes before; 3 where a
    text is more surprising than --threshold; 130 where it was interrupted; 141 where nobody reads the output any more.
    """
    arguments = Arguments(**options)
    from segue_client.commands.score.run import run

    if run(arguments):
        ctx.exit(TOO_SURPRISING)
