"""Options that several of the client's commands share."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from segue_client._sync.client import Client


def _addresses(_ctx: click.Context, _param: click.Parameter, value: str) -> list[str]:
    """Read HOST:PORT,HOST:PORT,..."""
    from segue_client.errors import InvalidRequest
    from segue_client.protocol.address import checked_address

    addresses = [address.strip() for address in value.split(",")]
    try:
        return [checked_address(address) for address in addresses]
    except InvalidRequest as error:
        raise click.BadParameter(str(error)) from None


def _seconds(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Read a time limit; click's ranges let "nan" through."""
    if value is not None and not value > 0:
        raise click.BadParameter(f"{value:g} is no time limit; choose more than 0 seconds, or leave it out")
    return value


SERVER: Final = click.option(
    "--server",
    metavar="HOST:PORT[,...]",
    default="127.0.0.1:50051",
    show_default=True,
    envvar="SEGUE_SERVER",
    show_envvar=True,
    callback=_addresses,
    help="Address of the server. Several equivalent ones share the work; one that is full or lost is left.",
)
TENANT: Final = click.option(
    "--tenant", default="", envvar="SEGUE_TENANT", show_envvar=True, help="Owner of the tickets and sessions."
)
TIMEOUT: Final = click.option(
    "--timeout", type=float, callback=_seconds, metavar="SECONDS", help="Give up after this time.  [default: never]"
)
JSON: Final = click.option("--json", "as_json", is_flag=True, help="Write JSON for scripts, one object per line.")
MODEL: Final = click.option(
    "--model",
    default="",
    envvar="SEGUE_MODEL",
    show_envvar=True,
    help="Name of the model.  [default: the server's only one]",
)
MODEL_VERSION: Final = click.option(
    "--model-version", type=click.IntRange(min=0), default=0, help="Version of the model.  [default: the newest]"
)
UNKNOWN: Final = click.option(
    "--unknown",
    type=click.Choice(["replace", "refuse"]),
    default="replace",
    show_default=True,
    help="What to do with characters that the model does not know.",
)
VERBATIM: Final = click.option(
    "--verbatim", is_flag=True, help="Read what the model wrote as it is, without the normalization for other texts."
)
TICKET_IN: Final = click.option(
    "--ticket-in",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start from the ticket in this file.",
)


def check_new_file(option: str, path: Path | None) -> None:
    """Raise click.UsageError if the file that `option` names cannot be written, before any work is done for it."""
    if path is None or (path.exists() and not path.is_file() and not path.is_dir()):  # a device or a pipe
        return
    if path.is_dir():
        raise click.UsageError(f"{option}: {path} is a folder; name a file.")
    if not path.parent.is_dir():
        raise click.UsageError(f"{option}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise click.UsageError(f"{option}: nothing can be written in the folder of {path}; name a file in another one.")


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The server to call, as whom, and the model there."""

    server: list[str]
    tenant: str
    timeout: float | None
    """Seconds for each call; None: no limit."""
    model: str
    version: int

    def client(self, *, resume: bool = True) -> "Client":
        """Return a client of the server."""
        from segue_client._sync.client import Client

        return Client(self.server, tenant=self.tenant, timeout=self.timeout, resume=resume)


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a Connection to `command`, which takes them as `connection`."""

    @wraps(command)
    def with_connection(
        *arguments: Any,
        server: list[str],
        tenant: str,
        timeout: float | None,
        model: str,
        model_version: int,
        **options: Any,
    ) -> None:
        connection = Connection(server=server, tenant=tenant, timeout=timeout, model=model, version=model_version)
        command(*arguments, connection=connection, **options)

    for option in (TIMEOUT, MODEL_VERSION, MODEL, TENANT, SERVER):
        with_connection = option(with_connection)
    return with_connection
