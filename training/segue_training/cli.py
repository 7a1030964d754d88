"""The command `segue train`.

`segue --help` imports this module even without torch installed; the command itself imports what needs torch.
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
"""The default."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

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
@click.option("--field", help="For JSON lines: the field that holds the text.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.  [default: runs/CORPUS]")
@click.option("--recipe", help="A named configuration; an unknown name lists all.  [default: quick]")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a setting of the recipe.")
@click.option("--seed", help="Same as --set seed=N.")
@click.option("--documents", help='Same as --set documents=...; "lines": each line is a separate text.')
@click.option("--alphabet", help='Same as --set alphabet=...: "characters" or "bytes".')
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue a stopped run.")
@click.option("--step", type=int, help="With --resume: the saved step to continue from.  [default: the last]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--save-every", type=float, default=60.0, show_default=True, help="Seconds between saves.")
@click.option("--force", is_flag=True, help="Replace the run in the folder.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard logs to the run's folder.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write report.html to the run's folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    *, settings: tuple[str, ...], seed: str | None, documents: str | None, alphabet: str | None, **options: Any
) -> None:
    """Train a model on CORPUS and write a checkpoint.

    CORPUS is pydoc, time-machine, shakespeare, a file, a folder of *.txt files, a quoted pattern such as
    'logs/**/*.log', or - for standard input; all may be compressed by gzip, zstd, xz or bzip2. Ctrl-C and SIGTERM save
    the run; --resume continues it bit for bit.

    time-machine and shakespeare are downloaded once, to the folder $SEGUE_DATA.  [default: ~/.cache/segue]

    For several processes: torchrun --nproc-per-node N -m segue_training CORPUS ...
    """
    shortcuts = {"seed": seed, "documents": documents, "alphabet": alphabet}
    given = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    share_cores()
    _train(Options(settings=(*settings, *given), **options))


def _train(options: Options) -> None:
    from segue_training.train.distributed import join_process_group
    from segue_training.train.run import train as run

    started = time.monotonic()
    use_threads(options.threads)
    spec = _spec(options)
    with (
        join_process_group(options.device) as group,
        _output_folder(spec.folder, group, resumes=options.resume is not None, force=options.force),
    ):
        if group.is_first:
            _print_sources(spec)
        with _reports(spec, group, options) as report:
            checkpoint = run(spec, report, group, options.save_every)
        if checkpoint is not None:
            _finish(checkpoint, spec, options, time.monotonic() - started)


def _print_sources(spec: "RunSpec") -> None:
    from segue_training.reports.sources import DOCUMENT, describe

    for line in describe(spec.corpus.sources, spec.folder / DOCUMENT):
        click.echo(line, err=True)


def _spec(options: Options) -> "RunSpec":
    from segue_training.recipes import recipe
    from segue_training.settings import override
    from segue_training.train.run_spec import begin_run, resume_run

    _check_together(options)
    if options.resume is not None:
        return resume_run(options.resume, options.step, options.corpus, options.settings)
    if options.corpus is None:
        raise ConfigurationError("CORPUS is missing: try segue train pydoc, or segue train --resume RUN")
    name = options.recipe or RECIPE
    config = override(recipe(name), options.settings)
    return begin_run(options.corpus, options.field, name, config, options.out)


def _check_together(options: Options) -> None:
    """Raise ConfigurationError for an option that would be ignored."""
    if options.resume is None and options.step is not None:
        raise ConfigurationError("--step selects a saved step: give it with --resume RUN")
    new = {"--recipe": options.recipe, "--field": options.field, "--out": options.out, "--force": options.force}
    if options.resume is not None and (given := [name for name, value in new.items() if value]):
        raise ConfigurationError(f"{given[0]} is for a new run: leave it out to resume {options.resume}")


def _finish(checkpoint: "Checkpoint", spec: "RunSpec", options: Options, seconds: float) -> None:
    """Write and show the results."""
    from rich.console import Console

    from segue_training.reports.console import show, summary
    from segue_training.reports.sources import save_sources
    from segue_training.train.checkpoint import save_checkpoint
    from segue_training.train.train_state import delete_train_states

    save_sources(spec.folder, spec.corpus.sources)
    save_checkpoint(spec.folder, checkpoint)
    delete_train_states(spec.folder)
    report = _write_report(checkpoint, spec) if options.report else None
    if options.as_json:
        click.echo(summary(checkpoint, str(spec.folder), seconds, report, spec.corpus.sources))
        return
    show(checkpoint, Console())
    click.echo(f"checkpoint: {spec.folder}" + (f"\nreport: {report}" if report else ""))


def _write_report(checkpoint: "Checkpoint", spec: "RunSpec") -> Path:
    from segue_training.evaluation.baselines import baselines
    from segue_training.reports.html import write_report

    path, corpus = spec.folder / REPORT, spec.corpus
    figures = baselines(corpus.training, corpus.validation, corpus.vocabulary, checkpoint.documents)
    write_report(path, checkpoint, corpus.validation, figures)
    return path


@contextmanager
def _reports(spec: "RunSpec", group: "ProcessGroup", options: Options) -> Iterator["Report"]:
    """Yield the function that is called with each step's progress; it is silent in all processes but the first."""
    from rich.console import Console

    from segue_training.reports.console import ProgressReport

    if not group.is_first:
        yield lambda _: None
        return
    history = spec.train_state.progression.history if spec.train_state else ()
    with ProgressReport(spec.origin.training, spec.corpus.vocabulary, Console(stderr=True), history) as progress:
        if not options.tensorboard:
            yield progress
            return
        from segue_training.reports.tensorboard import TensorBoardReport
        from segue_training.train.trainer import in_turn

        folder, vocabulary = spec.folder / "tensorboard", spec.corpus.vocabulary
        with TensorBoardReport(folder, spec.origin.training, vocabulary, history) as log:
            yield in_turn(progress, log)


@contextmanager
def _output_folder(folder: Path, group: "ProcessGroup", *, resumes: bool, force: bool) -> Iterator[None]:
    """Check before training that `folder` can be written; do not leave it empty after a failure."""
    if not group.is_first:
        yield
        return
    with unless_empty(folder):
        if not resumes:
            _prepare(folder, force=force)
        yield


def _prepare(folder: Path, *, force: bool) -> None:
    """Make `folder` ready for a new run. Raises ConfigurationError if it holds one and `force` is not given."""
    from segue_training.train.checkpoint import is_checkpoint
    from segue_training.train.train_state import delete_train_states, train_state_files

    if is_checkpoint(folder) and not force:
        raise ConfigurationError(f"{folder} holds a checkpoint: give --force to replace it, or another --out")
    if train_state_files(folder) and not force:
        raise ConfigurationError(
            f"{folder} holds a stopped run: continue it with --resume {folder}, or give --force to replace it"
        )
    make_writable(folder)
    with changing(folder):
        delete_train_states(folder)
        (folder / REPORT).unlink(missing_ok=True)
