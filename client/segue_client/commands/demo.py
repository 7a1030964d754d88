"""`segue demo`: from a text to a served model, through the commands that a user types."""

import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import click

if TYPE_CHECKING:
    from segue_client._sync.client import Client
    from segue_client.messages.score import Score

MODEL: Final = "demo"
TEMPERATURES: Final = (0.5, 0.8, 1.0)
GOOD_TEMPERATURE: Final = 0.7
"""Less adventurous than the model's own probabilities: better first impressions."""

SAMPLE_CHARACTERS: Final = 400
CLEARLY: Final = 1.5
"""Least ratio of the shuffled passage's perplexity to the natural one's."""

START_SECONDS: Final = 120
STOP_SECONDS: Final = 30
READY: Final = "ready: "


class DemoFailed(Exception):  # noqa: N818 - named after what happened
    """A step of the demo failed; the message names the step and where to look."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@click.command()
@click.argument("corpus", default="pydoc")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default="demo",
    show_default=True,
    help="Folder for everything that is written.",
)
@click.option("--recipe", help="Recipe to train with.  [default: that of `segue train`]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting of the recipe.")
def demo(corpus: str, *, folder: Path, recipe: str | None, settings: tuple[str, ...]) -> None:
    """Train on CORPUS, export, serve, generate and score.

    CORPUS is what `segue train` takes. The exit status is 0 only if the model finds a natural passage clearly more
    probable than the same characters shuffled.
    """
    from segue_client._sync.client import Client
    from segue_client.commands.demo_passage import natural_passage, prompt_for, shuffled
    from segue_client.messages.score import Score

    passage = natural_passage(corpus)
    prompt = prompt_for(corpus, passage)
    signal.signal(signal.SIGTERM, _leave)
    run, models, state = folder / "run", folder / "models", folder / "state"
    options = ["--recipe", recipe] if recipe else []
    options += [part for setting in settings for part in ("--set", setting)]
    training_seconds = _run("train", corpus, "--out", run, "--force", *options)
    _run("export", run, "--models", models, "--name", MODEL)
    with _server(models, state, folder / "server.log") as address, Client(address) as client:
        model = client.model(MODEL)
        passages = passage.splitlines() if model.documents == "lines" else [passage]
        samples = [_sample(client, prompt, temperature) for temperature in TEMPERATURES]
        _announce("score", "a passage, and the same characters shuffled")
        natural, shuffle = (
            Score.merge(client.score_many(texts, model=MODEL)) for texts in (passages, [*map(shuffled, passages)])
        )
    first, rate = map(median, zip(*samples, strict=True))
    _print_results(
        {
            "training": f"{training_seconds:.1f} s",
            "perplexity of the held-out text": f"{model.validation_perplexity:.2f}",
            "perplexity of a natural passage": f"{natural.perplexity:.2f}",
            "perplexity of the same characters shuffled": f"{shuffle.perplexity:.2f}",
            "first character": f"{1000 * first:.1f} ms",
            "one stream": f"{rate:,.0f} characters/s",
        }
    )
    _judge(natural, shuffle)
    click.echo(f"\n{next_steps(models, state, run / 'report.html', prompt)}")


def _leave(_signal: int, _frame: object) -> NoReturn:
    """Exit through every `finally`, so that no process is left running."""
    sys.exit(128 + signal.SIGTERM)


def _announce(command: str, *arguments: object) -> None:
    click.secho(f"\n$ segue {' '.join([command, *map(str, arguments)])}", bold=True)


def _command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "segue_client", name, *map(str, arguments)]


class _PassedOn:
    """Within its context, signals go to a child process, which saves its work and ends."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The last one."""
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def to(self, child: "subprocess.Popen[bytes]") -> None:
        """Pass them on to `child`, also one that came before."""
        self._child = child
        if self.received is not None:
            child.send_signal(self.received)

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _pass_on(self, number: int, _frame: object) -> None:
        self.received = signal.Signals(number)
        if self._child is not None:
            self._child.send_signal(number)


def _run(name: str, *arguments: object) -> float:
    """Run one subcommand to its end; return the seconds that it took."""
    _announce(name, *arguments)
    began = time.monotonic()
    # In a group of its own a terminal's Ctrl-C reaches it once: a second one would end it without saving.
    with (
        _PassedOn() as signals,
        subprocess.Popen(_command(name, *arguments), process_group=0) as process,  # noqa: S603 - our own command
    ):
        signals.to(process)
        status = process.wait()
    if status and (number := signals.received) is not None:
        raise DemoFailed(
            f"stopped by {number.name} in the step `segue {name}`; its messages are above, and segue demo begins anew",
            128 + number,
        )
    if status:
        exit_code = 2 if status == 2 else 1  # noqa: PLR2004 - 2: the input is at fault
        raise DemoFailed(f"the step `segue {name}` failed with status {status}; its messages are above", exit_code)
    if signals.received is not None:  # it had its result already
        raise SystemExit(128 + signals.received)
    return time.monotonic() - began


@contextmanager
def _server(models: Path, state: Path, log: Path) -> Iterator[str]:
    """Serve `models` on a free local port, with `state` for its keys; yield the address, and stop it afterwards."""
    arguments = (models, "--state", state, "--host", "127.0.0.1", "--port", 0)
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
    """Wait for the line that the server prints once it is ready."""
    assert process.stdout
    readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline() if readable else ""
    if not line.startswith(READY):
        raise DemoFailed(f"the step `segue serve` did not get ready; see {log}")
    return line.removeprefix(READY).strip()


def _stop(process: subprocess.Popen[str]) -> int:
    """Ask the server to stop, kill it if it does not, and return its exit status."""
    process.terminate()
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _sample(client: "Client", prompt: str, temperature: float) -> tuple[float, float]:
    """Print one text as it arrives; return the seconds to its first character, and its characters per second."""
    from segue_client.commands.render import printable

    _announce("generate", shlex.quote(printable(prompt)), "--temperature", temperature)
    click.secho(printable(prompt), dim=True, nl=False)
    began, first, count = time.monotonic(), 0.0, 0
    for chunk in client.generate(
        prompt, model=MODEL, temperature=temperature, seed=0, max_characters=SAMPLE_CHARACTERS
    ):
        first = first or time.monotonic() - began
        count += len(chunk.text)
        click.echo(printable(chunk.text), nl=False)
    click.echo()
    return first, count / (time.monotonic() - began)


def _print_results(results: dict[str, str]) -> None:
    click.echo()
    for name, value in results.items():
        click.echo(f"{name:<43}{value:>20}")


def _judge(natural: "Score", shuffle: "Score") -> None:
    """Raise DemoFailed if the model has not learned the order of characters."""
    assert natural.perplexity
    assert shuffle.perplexity
    if shuffle.perplexity < CLEARLY * natural.perplexity:
        raise DemoFailed("the model does not find the natural passage clearly more probable; train it for longer")


def next_steps(models: Path, state: Path, report: Path, prompt: str) -> str:
    """Return what to do next; the commands work as typed in the current folder."""
    from segue_client.commands.render import printable

    activate, here = Path(sys.prefix) / "bin" / "activate", Path.cwd()
    serve = shlex.join(["segue", "serve", str(models), "--state", str(state)])
    lines = [serve, f"segue generate {shlex.quote(printable(prompt))} --temperature {GOOD_TEMPERATURE}"]
    if sys.prefix != sys.base_prefix and activate.is_file():
        shown = activate.relative_to(here) if activate.is_relative_to(here) else activate
        lines = [f". {shlex.quote(str(shown))}\n  {line}" for line in lines]
    serve, generate = lines
    return (
        f"Next:\n  {serve}\nIn another terminal:\n  {generate}\n"
        f"Report of the training, to open in a browser: {shlex.quote(str(report))}"
    )
