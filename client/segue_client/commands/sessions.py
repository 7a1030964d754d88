"""`segue sessions`: named states on a server."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from segue_client.commands.groups import Group
from segue_client.commands.options import JSON, TICKET_IN, Connection, check_new_file, connected

if TYPE_CHECKING:
    from segue_client._sync.client import Client
    from segue_client._sync.sessions import Session

_SEED: Final = click.option("--seed", type=click.IntRange(min=0), help="Seed of the texts generated in the session.")


@click.group(cls=Group)
def sessions() -> None:
    """List, open, fork, rewind and close sessions.

    A session is a state that the server keeps under a name; `segue generate --session NAME` continues from it.
    """


@sessions.command("list")
@connected
@JSON
def list_sessions(*, connection: Connection, as_json: bool) -> None:
    """List your own sessions of a model, by name."""
    with connection.client() as client:
        found = client.sessions(model=connection.model, version=connection.version)
    _print(found, as_json=as_json)


@sessions.command("open")
@click.argument("name", required=False)
@TICKET_IN
@click.option("--inexact", is_flag=True, help="Also accept a ticket from another class of host.")
@_SEED
@click.option(
    "--idle-seconds",
    type=click.IntRange(min=0),
    default=0,
    help="Expire after this time without use.  [default: the server's]",
)
@click.option(
    "--rewind-characters", type=click.IntRange(min=0), default=0, help="How many characters can be taken back."
)
@connected
@JSON
def open_session(  # noqa: PLR0913 - one parameter for each option
    name: str | None,
    *,
    ticket_in: Path | None,
    inexact: bool,
    seed: int | None,
    idle_seconds: int,
    rewind_characters: int,
    connection: Connection,
    as_json: bool,
) -> None:
    """Open the session NAME, or one with a generated name."""
    if name == "":  # as from an unset variable
        raise click.UsageError("NAME is empty; leave it out for a generated name.")
    with connection.client() as client:
        session = client.open_session(
            name or "",
            ticket=ticket_in.read_bytes() if ticket_in else None,
            exact=not inexact,
            seed=seed,
            idle_seconds=idle_seconds,
            rewind_characters=rewind_characters,
            model=connection.model,
            version=connection.version,
        )
    _print([session], as_json=as_json)


@sessions.command("show")
@click.argument("name")
@connected
@JSON
def show_session(name: str, *, connection: Connection, as_json: bool) -> None:
    """Describe the session NAME."""
    with connection.client() as client:
        session = _find(client, name, connection)
    _print([session], as_json=as_json)


@sessions.command("fork")
@click.argument("name")
@click.argument("new_names", nargs=-1, metavar="NEW...", required=True)
@connected
@JSON
def fork_session(name: str, new_names: tuple[str, ...], *, connection: Connection, as_json: bool) -> None:
    """Copy the session NAME to the sessions NEW..., each with its own seed."""
    with connection.client() as client:
        forks = _find(client, name, connection).fork(new_names)
    _print(forks, as_json=as_json)


@sessions.command("rewind")
@click.argument("name")
@click.argument("characters", type=click.IntRange(min=1))
@_SEED
@connected
@JSON
def rewind_session(name: str, characters: int, *, seed: int | None, connection: Connection, as_json: bool) -> None:
    """Take back the last CHARACTERS of the session NAME; another --seed makes it continue differently."""
    with connection.client() as client:
        session = _find(client, name, connection)
        session.rewind(characters, seed=seed)
    _print([session], as_json=as_json)


@sessions.command("close")
@click.argument("name")
@click.option("--ticket-out", type=click.Path(dir_okay=False, path_type=Path), help="Save its last state to this file.")
@connected
@JSON
def close_session(name: str, *, ticket_out: Path | None, connection: Connection, as_json: bool) -> None:
    """End the session NAME."""
    check_new_file("--ticket-out", ticket_out)
    with connection.client() as client:
        session = _find(client, name, connection)
        if ticket_out:
            _keep(session, ticket_out)  # first, in case the file cannot be written
        session.close()
    if as_json:
        click.echo(json.dumps({"closed": session.name}))
    else:
        click.echo(f"closed: {session.name}", err=True)


def _keep(session: "Session", path: Path) -> None:
    from segue_client.commands.atomic_file import write_ticket

    if ticket := session.ticket():
        write_ticket(path, ticket)
    else:
        click.echo(f"the session has read nothing yet: there is no state for {path} to keep", err=True)


def _find(client: "Client", name: str, connection: Connection) -> "Session":
    return client.session(name, model=connection.model, version=connection.version)


def _print(sessions: Sequence["Session"], *, as_json: bool) -> None:
    if as_json:
        for session in sessions:
            click.echo(json.dumps(_fields(session), ensure_ascii=False))
        return
    from rich.table import Table

    from segue_client.commands.render import print_table

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
            f"{session.expiry.astimezone():%Y-%m-%d %H:%M %Z}",
        )
    print_table(table)


def _fields(session: "Session") -> dict[str, object]:
    names = ("name", "model", "version", "position", "rewindable_count", "seed")
    return {name: getattr(session, name) for name in names} | {"expiry": session.expiry.isoformat()}
