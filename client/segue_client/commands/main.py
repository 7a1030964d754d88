"""The `segue` command: finds the subcommands of all folders, and turns how they end into an exit status.

A folder registers its subcommands in the entry-point group `segue.commands`. Their modules import only click, so
that the list of commands is quick and complete, whichever extras are installed.

    0    success
    1    failure
    2    bad input
    130  interrupted by the user
    143  stopped by SIGTERM
    141  the output is no longer read

An exception with an `exit_code`, as those of all folders have, is expected: its message is printed as one line. Any
other is a bug, and keeps its traceback.
"""

import difflib
import logging
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, NoReturn

import click

from segue_client.commands.early_signals import as_usual, end_at_once
from segue_client.commands.flags import CLIENT, in_flags
from segue_client.commands.groups import Group
from segue_client.commands.standard_streams import discard_output, replace_closed, write_everything

ENTRY_POINT_GROUP: Final = "segue.commands"

_SIGNALLED: Final = 128
"""The exit status of a process that a signal stopped is this and the signal's number."""
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

EXTRAS: Final[Mapping[str, str]] = {
    "train": "in segue's checkout, pip install '.[train]'",
    "reproduce": "in segue's checkout, pip install '.[train]'",
    "agreement": "in segue's checkout, pip install '.[train]'",
    "evaluate": "in segue's checkout, pip install '.[export]'",
    "export": "in segue's checkout, pip install '.[export]'",
    "serve": "in segue's checkout, pip install '.[server]' ('.[server-gpu]' for a GPU)",
}
"""How to install what a subcommand needs besides the client."""


class Unavailable(click.Command):
    """A subcommand whose module cannot be imported: it is listed, and says what is missing."""

    def __init__(self, name: str, error: ModuleNotFoundError) -> None:
        super().__init__(
            name,
            short_help=f"[needs {_module(error)}]",
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            context_settings={"ignore_unknown_options": True},
            add_help_option=False,
        )
        self._error = error

    def invoke(self, ctx: click.Context) -> NoReturn:
        """Fail with the reason."""
        del ctx
        raise self._error


class Commands(Group):
    """A group that imports its subcommands when they are needed."""

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands."""
        del ctx
        return sorted(self._entry_points)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand; None if there is none of that name."""
        del ctx
        if cmd_name not in self._entry_points:
            return None
        try:
            command: click.Command = self._entry_points[cmd_name].load()
        except ModuleNotFoundError as error:
            return Unavailable(cmd_name, error)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand, or fail with the nearest name."""
        if args[0] not in self._entry_points and not args[0].startswith("-"):
            nearest = difflib.get_close_matches(args[0], self._entry_points, n=1)
            ctx.fail(f"No such command {args[0]!r}." + "".join(f" Did you mean {name!r}?" for name in nearest))
        name, command, rest = super().resolve_command(ctx, args)
        if name not in EXTRAS:  # it imports nothing that loses a KeyboardInterrupt
            as_usual()
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; turn its end into an exit status and at most one line."""
        logging.getLogger("segue_client").addHandler(_WAITING)
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            discard_output()
            ctx.exit(BROKEN_PIPE)
        except ModuleNotFoundError as error:
            if _module(error).startswith("segue"):  # no extra installs it: a bug
                raise
            command, module = ctx.invoked_subcommand or "", _module(error)
            remedy = EXTRAS.get(command, f"install {module}")
            raise click.ClickException(f"segue {command} needs {module}: {remedy}") from error
        except OSError as error:
            if error.errno is None:
                raise
            raise _refused(error) from error
        except Exception as error:
            exit_code = getattr(error, "exit_code", None)
            if not isinstance(exit_code, int):
                raise
            stopped = exit_code > _SIGNALLED  # which was wanted
            name = ctx.invoked_subcommand or ""
            message = in_flags(str(error), name) if name in CLIENT else str(error)
            click.echo(message if stopped else f"Error: {message}", err=True)
            ctx.exit(exit_code)


class _Told(logging.Handler):
    """Tells the user what the client says while it runs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line to standard error."""
        click.secho(record.getMessage(), dim=True, err=True)


_WAITING: Final = _Told()


def _refused(error: OSError) -> click.ClickException:
    """Return the system's reason, with the file if it is known."""
    if error.filename is not None:
        return click.ClickException(f"{error.filename}: {error.strerror}")
    discard_output()  # which may be what could not be written
    return click.ClickException(f"{error.strerror}")


def _module(error: ModuleNotFoundError) -> str:
    return (error.name or str(error)).partition(".")[0]


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="segue", message="%(prog)s %(version)s")
def segue() -> None:
    """Train, export and serve character-level language models, and use their servers."""


def main() -> NoReturn:
    """Run `segue` with the arguments of the process."""
    end_at_once()
    replace_closed()
    write_everything()
    segue.main(prog_name="segue")
