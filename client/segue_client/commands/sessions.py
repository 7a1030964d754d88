"""`segue sessions`: the states that a server holds under names."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from segue_client.commands.options import JSON, MODEL, MODEL_VERSION, SERVER, TENANT, TICKET_IN, TIMEOUT

if TYPE_CHECKING:
    from segue_client._sync.client import Client
    from segue_client._sync.sessions import Session

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SEED: Final = click.option("--seed", type=click.IntRange(min=0), help="Of the texts written in it.")


def _connected(command: _Command) -> _Command:
    """Give `command` the options of every subcommand."""
    for option in reversed((SERVER, TENANT, MODEL, MODEL_VERSION, TIMEOUT, JSON)):
        command = option(command)
    return command


@click.group()
def sessions() -> None:
    """List, open and close sessions, fork and rewind them.

    A session is a state that the server holds under a name: `segue generate --session NAME` goes on from it.
    """


@sessions.command("list")
@_connected
def list_sessions(**connection: Any) -> None:
    """List your own sessions of a model, by name."""
    with _client(connection) as client:
        found = client.sessions(model=connection["model"], version=connection["model_version"])
    _print(found, as_json=connection["as_json"])


@sessions.command("open")
@click.argument("name", default="")
@TICKET_IN
@click.option("--inexact", is_flag=True, help="Take a ticket of another kind of host too.")
@_SEED
@click.option(
    "--idle-seconds", type=click.IntRange(min=0), default=0, help="Keep it so long unused.  [default: the server's]"
)
@click.option(
    "--rewind-characters", type=click.IntRange(min=0), default=0, help="So many characters can be taken back."
)
@_connected
def open_session(  # noqa: PLR0913 - the options of the command
    name: str,
    *,
    ticket_in: Path | None,
    inexact: bool,
    seed: int | None,
    idle_seconds: int,
    rewind_characters: int,
    **connection: Any,
) -> None:
    """Open the session NAME; without a name, one is made up."""
    with _client(connection) as client:
        session = client.open_session(
            name,
            ticket=ticket_in.read_bytes() if ticket_in else None,
            exact=not inexact,
            seed=seed,
            idle_seconds=idle_seconds,
            rewind_characters=rewind_characters,
            model=connection["model"],
            version=connection["model_version"],
        )
    _print([session], as_json=connection["as_json"])


@sessions.command("show")
@click.argument("name")
@_connected
def show_session(name: str, **connection: Any) -> None:
    """Say where the session NAME stands."""
    with _client(connection) as client:
        session = _find(client, name, connection)
    _print([session], as_json=connection["as_json"])


@sessions.command("fork")
@click.argument("name")
@click.argument("new_names", nargs=-1, metavar="NEW...", required=True)
@_connected
def fork_session(name: str, new_names: tuple[str, ...], **connection: Any) -> None:
    """Make the sessions NEW..., which stand where the session NAME does, each with a seed of its own."""
    with _client(connection) as client:
        forks = _find(client, name, connection).fork(new_names)
    _print(forks, as_json=connection["as_json"])


@sessions.command("rewind")
@click.argument("name")
@click.argument("characters", type=click.IntRange(min=1))
@_SEED
@_connected
def rewind_session(name: str, characters: int, *, seed: int | None, **connection: Any) -> None:
    """Take back the last CHARACTERS of the session NAME; with another --seed it writes something else there."""
    with _client(connection) as client:
        session = _find(client, name, connection)
        session.rewind(characters, seed=seed)
    _print([session], as_json=connection["as_json"])


@sessions.command("close")
@click.argument("name")
@click.option("--ticket-out", type=click.Path(dir_okay=False, path_type=Path), help="Keep its last state in this file.")
@_connected
def close_session(name: str, *, ticket_out: Path | None, **connection: Any) -> None:
    """End the session NAME."""
    if ticket_out and not ticket_out.parent.is_dir():
        raise click.UsageError(f"--ticket-out: there is no folder {ticket_out.parent}")
    with _client(connection) as client:
        session = _find(client, name, connection)
        if ticket_out:
            _keep(session, ticket_out)  # before it is gone, in case the file cannot be written
        session.close()
    if connection["as_json"]:
        click.echo(json.dumps({"closed": session.name}))
    else:
        click.echo(f"closed: {session.name}", err=True)


def _keep(session: "Session", path: Path) -> None:
    from segue_client.commands.ticket_file import write_ticket

    if ticket := session.ticket():
        write_ticket(path, ticket)
    else:
        click.echo(f"nothing was read in the session yet: there is no state for {path} to keep", err=True)


def _client(connection: dict[str, Any]) -> "Client":
    from segue_client._sync.client import Client

    return Client(connection["server"], tenant=connection["tenant"], timeout=connection["timeout"])


def _find(client: "Client", name: str, connection: dict[str, Any]) -> "Session":
    return client.session(name, model=connection["model"], version=connection["model_version"])


def _print(sessions: Sequence["Session"], *, as_json: bool) -> None:
    if as_json:
        for session in sessions:
            click.echo(json.dumps(_fields(session), ensure_ascii=False))
        return
    from rich.table import Table

    from segue_client.commands.render import console

    table = Table("session", "model", box=None, pad_edge=False)
    for heading in ("position", "rewindable", "seed"):
        table.add_column(heading, justify="right")
    table.add_column("expires")
    for session in sessions:
        table.add_row(
            session.name,
            f"{session.model}/{session.version}",
            f"{session.position:,}",
            f"{session.rewindable_count:,}",
            str(session.seed),
            f"{session.expiry.astimezone():%Y-%m-%d %H:%M}",
        )
    console().print(table)


def _fields(session: "Session") -> dict[str, object]:
    return {
        "name": session.name,
        "model": session.model,
        "version": session.version,
        "position": session.position,
        "rewindable_count": session.rewindable_count,
        "seed": session.seed,
        "expiry": session.expiry.isoformat(),
    }
