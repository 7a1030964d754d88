"""The command `segue train`.

`segue --help` reads this module even where torch is not installed: the command imports what needs it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from segue_training.errors import ConfigurationError
from segue_training.output_folder import changing, make_writable, unless_empty
from segue_training.train.threads import share_cores, use_threads

if TYPE_CHECKING:
    from segue_training.train.checkpoint import Checkpoint
    from segue_training.train.distributed import ProcessGroup
    from segue_training.train.run_spec import RunSpec
    from segue_training.train.trainer import Report


REPORT: Final = "report.html"
RECIPE: Final = "quick"
"""Unless the command line names another one."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says."""

    corpus: str | None
    field: str | None
    out: Path | None
    recipe: str | None
    settings: tuple[str, ...]
    resume: Path | None
    step: int | None
    device: str
    threads: int | None
    save_every: float
    force: bool
    tensorboard: bool
    report: bool
    as_json: bool


@click.command()
@click.argument("corpus", required=False)
@click.option("--field", help="CORPUS is JSON lines: the field that holds the text.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.  [default: runs/CORPUS]")
@click.option("--recipe", help="A configuration by name; a wrong one lists all.  [default: quick]")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a setting of the recipe.")
@click.option("--seed", help="The same as --set seed=N.")
@click.option("--documents", help='The same as --set documents=...; "lines": each line is a text of its own.')
@click.option("--alphabet", help='The same as --set alphabet=...: "characters" or "bytes".')
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with a run that was stopped.")
@click.option("--step", type=int, help="With --resume: where to go on.  [default: the last step that was saved]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--save-every", type=float, default=60.0, show_default=True, help="Seconds that a crash may cost.")
@click.option("--force", is_flag=True, help="Replace the run that is in the folder.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard logs to the run's folder.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write report.html to the run's folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    *, settings: tuple[str, ...], seed: str | None, documents: str | None, alphabet: str | None, **options: Any
) -> None:
    """Train a model on CORPUS and write a checkpoint.

    CORPUS is pydoc, time-machine, shakespeare, a file, a folder of *.txt files, a quoted pattern such as
    'logs/**/*.log', or - for standard input. Ctrl-C and SIGTERM save the run; --resume goes on to the bit.

    With several processes: torchrun --nproc-per-node N -m segue_training CORPUS ...
    """
    shortcuts = {"seed": seed, "documents": documents, "alphabet": alphabet}
    given = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    share_cores()
    _train(Options(settings=(*settings, *given), **options))


def _train(options: Options) -> None:
    from segue_training.train.distributed import join_world
    from segue_training.train.run import train as run

    began = time.monotonic()
    use_threads(options.threads)
    job = _job(options)
    with (
        join_world(options.device) as world,
        _output_folder(job.folder, world, resumes=options.resume is not None, force=options.force),
    ):
        with _reports(job, world, options) as report:
            checkpoint = run(job, report, world, options.save_every)
        if checkpoint is not None:
            _keep(checkpoint, job, options, time.monotonic() - began)


def _job(options: Options) -> "RunSpec":
    from segue_training.recipes import recipe
    from segue_training.settings import override
    from segue_training.train.run_spec import begin_job, resume_job

    _check_together(options)
    if options.resume is not None:
        return resume_job(options.resume, options.step, options.corpus, options.settings)
    if options.corpus is None:
        raise ConfigurationError("no CORPUS is named: try segue train pydoc, or segue train --resume RUN")
    name = options.recipe or RECIPE
    config = override(recipe(name), options.settings)
    return begin_job(options.corpus, options.field, name, config, options.out)


def _check_together(options: Options) -> None:
    """Raise ConfigurationError for an option that would be left unheeded."""
    if options.resume is None and options.step is not None:
        raise ConfigurationError("--step says where to go on: give it with --resume RUN")
    begins = {"--recipe": options.recipe, "--field": options.field, "--out": options.out, "--force": options.force}
    if options.resume is not None and (given := [name for name, value in begins.items() if value]):
        raise ConfigurationError(f"{given[0]} is for a run that begins: leave it out to resume {options.resume}")


def _keep(checkpoint: "Checkpoint", job: "RunSpec", options: Options, seconds: float) -> None:
    """Write and show what the run came to."""
    from rich.console import Console

    from segue_training.reports.console import show, summary
    from segue_training.train.checkpoint import save_checkpoint
    from segue_training.train.train_state import drop_moments

    save_checkpoint(job.folder, checkpoint)
    drop_moments(job.folder)
    report = _write_report(checkpoint, job) if options.report else None
    if options.as_json:
        click.echo(summary(checkpoint, str(job.folder), seconds, report))
        return
    show(checkpoint, Console())
    click.echo(f"checkpoint: {job.folder}" + (f"\nreport: {report}" if report else ""))


def _write_report(checkpoint: "Checkpoint", job: "RunSpec") -> Path:
    from segue_training.evaluation.baselines import baselines
    from segue_training.reports.html import write_report

    path, corpus = job.folder / REPORT, job.corpus
    figures = baselines(corpus.training, corpus.validation, corpus.vocabulary, checkpoint.documents)
    write_report(path, checkpoint, corpus.validation, figures)
    return path


@contextmanager
def _reports(job: "RunSpec", world: "ProcessGroup", options: Options) -> Iterator["Report"]:
    """Yield what is called after each step: silent in all processes but the first."""
    from rich.console import Console

    from segue_training.reports.console import ProgressReport

    if not world.is_first:
        yield lambda _: None
        return
    history = job.moment.progression.history if job.moment else ()
    with ProgressReport(job.origin.training, job.corpus.vocabulary, Console(stderr=True), history) as progress:
        if not options.tensorboard:
            yield progress
            return
        from segue_training.reports.tensorboard import TensorBoardReport
        from segue_training.train.trainer import in_turn

        folder, vocabulary = job.folder / "tensorboard", job.corpus.vocabulary
        with TensorBoardReport(folder, job.origin.training, vocabulary, history) as log:
            yield in_turn(progress, log)


@contextmanager
def _output_folder(folder: Path, world: "ProcessGroup", *, resumes: bool, force: bool) -> Iterator[None]:
    """Make sure, before the work, that a run can be kept in `folder`; leave none empty."""
    if not world.is_first:
        yield
        return
    with unless_empty(folder):
        if not resumes:
            _make_room(folder, force=force)
        yield


def _make_room(folder: Path, *, force: bool) -> None:
    from segue_training.train.checkpoint import is_checkpoint
    from segue_training.train.train_state import drop_moments, moment_files

    if is_checkpoint(folder) and not force:
        raise ConfigurationError(f"{folder} holds a checkpoint: give --force to replace it, or another --out")
    if moment_files(folder) and not force:
        raise ConfigurationError(
            f"{folder} holds a run that was stopped: go on with --resume {folder}, or give --force to replace it"
        )
    make_writable(folder)
    with changing(folder):
        drop_moments(folder)
        (folder / REPORT).unlink(missing_ok=True)
