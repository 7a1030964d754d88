"""`segue demo`: the whole path from a text to a served model, through the commands that a user types."""

import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, NoReturn

import click

if TYPE_CHECKING:
    from segue_client._sync.client import Client
    from segue_client.messages.score import Score

MODEL: Final = "demo"
TEMPERATURES: Final = (0.5, 0.8, 1.0)
SAMPLE_CHARACTERS: Final = 400
CLEARLY: Final = 1.5
"""How many times the natural passage's perplexity the scrambled one's has to reach."""

START_SECONDS: Final = 120
STOP_SECONDS: Final = 30
READY: Final = "ready: "


class DemoFailed(Exception):  # noqa: N818 - named after what happened
    """A step of the demo failed; the message names the step and where to look."""

    exit_code = 1


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one text came over gRPC."""

    first_character: float
    """Seconds from the request to the first text."""
    characters_per_second: float


@click.command()
@click.argument("corpus", default="pydoc")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default="demo",
    show_default=True,
    help="Where everything is written.",
)
@click.option("--recipe", help="The recipe to train by.  [default: that of `segue train`]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe.")
def demo(corpus: str, *, folder: Path, recipe: str | None, settings: tuple[str, ...]) -> None:
    """Train on CORPUS, export, serve, generate and score.

    CORPUS is what `segue train` takes. It ends with status 0 only if the model finds a natural passage
    clearly likelier than the same characters in disorder.
    """
    from segue_client._sync.client import Client
    from segue_client.commands.demo_passage import natural_passage, prompt_for, scrambled

    passage, prompt = natural_passage(corpus), prompt_for(corpus)  # before the minutes that training takes
    signal.signal(signal.SIGTERM, _leave)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, models = folder / "run", folder / "models"
    training_seconds = _run("train", corpus, "--out", checkpoint, "--force", *_training_options(recipe, settings))
    _run("export", checkpoint, "--models", models, "--name", MODEL)
    with _server(models, folder / "server.log") as address, Client(address) as client:
        model = client.model(MODEL)
        passages = passage.splitlines() if model.documents == "lines" else [passage]
        prompt = prompt.lstrip("\n").partition("\n")[0]  # a document is a line
        speeds = [_sample(client, prompt, temperature) for temperature in TEMPERATURES]
        _announce("score", "a passage, and the same characters in disorder")
        natural, disorder = (_score(client, texts) for texts in (passages, map(scrambled, passages)))
    _print_results(training_seconds, model.validation_perplexity, speeds, natural, disorder)
    _judge(natural, disorder)


def _leave(_signal: int, _frame: object) -> NoReturn:
    """End by way of every `finally`, so that no process is left behind."""
    sys.exit(128 + signal.SIGTERM)


def _training_options(recipe: str | None, settings: Sequence[str]) -> list[str]:
    chosen = ["--recipe", recipe] if recipe else []
    return chosen + [part for setting in settings for part in ("--set", setting)]


def _announce(command: str, *arguments: object) -> None:
    click.secho(f"\n$ segue {' '.join([command, *map(str, arguments)])}", bold=True)


def _command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "segue_client", name, *map(str, arguments)]


def _run(name: str, *arguments: object) -> float:
    """Run one subcommand to its end; return the seconds that it took."""
    _announce(name, *arguments)
    began = time.monotonic()
    status = subprocess.run(_command(name, *arguments), check=False).returncode  # noqa: S603 - our own command
    if status:
        raise DemoFailed(f"the step `segue {name}` failed with status {status}; its messages are above")
    return time.monotonic() - began


@contextmanager
def _server(models: Path, log: Path) -> Iterator[str]:
    """Serve `models` on a free port of this machine; yield the address, and stop the server afterwards."""
    arguments = (models, "--host", "127.0.0.1", "--port", 0)
    _announce("serve", *arguments)
    with (
        log.open("wb") as messages,
        subprocess.Popen(  # noqa: S603 - our own command
            _command("serve", *arguments), stdout=subprocess.PIPE, stderr=messages, text=True
        ) as process,
    ):
        try:
            yield _address(process, log)
        finally:
            status = _stop(process)
    if status:
        raise DemoFailed(f"the step `segue serve` ended with status {status}; see {log}")


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """Wait for the one line that the server prints once it is serving."""
    assert process.stdout
    readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline() if readable else ""
    if not line.startswith(READY):
        raise DemoFailed(f"the step `segue serve` did not get ready; see {log}")
    return line.removeprefix(READY).strip()


def _stop(process: subprocess.Popen[str]) -> int:
    """Ask the server to stop; kill it where it does not. Return its exit status."""
    process.terminate()
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _sample(client: "Client", prompt: str, temperature: float) -> Speed:
    """Print one text as it comes; return how fast it came."""
    from segue_client.commands.render import printable

    _announce("generate", repr(prompt), "--temperature", temperature)
    click.secho(printable(prompt), dim=True, nl=False)
    began, first, count = time.monotonic(), 0.0, 0
    for chunk in client.generate(
        prompt, model=MODEL, temperature=temperature, seed=0, max_characters=SAMPLE_CHARACTERS
    ):
        first = first or time.monotonic() - began
        count += len(chunk.text)
        click.echo(printable(chunk.text), nl=False)
    click.echo()
    return Speed(first_character=first, characters_per_second=count / (time.monotonic() - began))


def _score(client: "Client", texts: Iterable[str]) -> "Score":
    """Score texts together."""
    from segue_client.messages.score import Score

    return Score.merge(client.score_many(list(texts), model=MODEL))


def _print_results(
    training_seconds: float,
    validation_perplexity: float,
    speeds: Sequence[Speed],
    natural: "Score",
    disorder: "Score",
) -> None:
    from rich.table import Table

    from segue_client.commands.render import console

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("training", f"{training_seconds:.1f} s")
    table.add_row("perplexity of the held-out text", f"{validation_perplexity:.2f}")
    table.add_row("perplexity of a natural passage", f"{natural.perplexity:.2f}")
    table.add_row("perplexity of the same characters in disorder", f"{disorder.perplexity:.2f}")
    table.add_row("first character", f"{1000 * median(speed.first_character for speed in speeds):.1f} ms")
    table.add_row("one stream", f"{median(speed.characters_per_second for speed in speeds):,.0f} characters/s")
    click.echo()
    console().print(table)


def _judge(natural: "Score", disorder: "Score") -> None:
    """Fail where the model has learnt no order."""
    assert natural.perplexity
    assert disorder.perplexity
    if disorder.perplexity < CLEARLY * natural.perplexity:
        raise DemoFailed("the model does not find the natural passage clearly likelier; train it for longer")
