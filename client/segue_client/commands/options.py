"""What several of the client's subcommands can be told."""

from pathlib import Path
from typing import Final

import click


def _addresses(_ctx: click.Context, _param: click.Parameter, value: str) -> list[str]:
    """Read HOST:PORT,HOST:PORT,..."""
    return [address.strip() for address in value.split(",")]


SERVER: Final = click.option(
    "--server",
    metavar="HOST:PORT[,...]",
    default="127.0.0.1:50051",
    show_default=True,
    envvar="SEGUE_SERVER",
    show_envvar=True,
    callback=_addresses,
    help="Where the server listens; several are as good as each other, and tried in turn.",
)
TENANT: Final = click.option(
    "--tenant", default="", envvar="SEGUE_TENANT", show_envvar=True, help="Whose tickets and sessions these are."
)
TIMEOUT: Final = click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after this time."
)
JSON: Final = click.option(
    "--json", "as_json", is_flag=True, help="Write JSON, one object a line, for a script to read."
)
MODEL: Final = click.option("--model", default="", help="The model.  [default: the server's only one]")
MODEL_VERSION: Final = click.option(
    "--model-version", type=click.IntRange(min=0), default=0, help="Its version.  [default: the newest]"
)
UNKNOWN: Final = click.option(
    "--unknown",
    type=click.Choice(["replace", "refuse"]),
    default="replace",
    show_default=True,
    help="What becomes of characters that the model does not know.",
)
TICKET_IN: Final = click.option(
    "--ticket-in",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start from the ticket in this file.",
)
