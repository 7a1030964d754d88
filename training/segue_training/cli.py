"""The command `segue train`.

`segue --help` imports this module even without torch installed; the command itself imports what needs torch.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

import click

from segue_training.errors import ConfigurationError, Interrupted
from segue_training.output_folder import changing, locked, unless_empty
from segue_training.train.threads import import_all, share_cores, use_threads

if TYPE_CHECKING:
    from segue_training.data.encoding import Policy
    from segue_training.train.checkpoint import Checkpoint
    from segue_training.train.distributed import ProcessGroup
    from segue_training.train.run import Say
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
    bad_rows: "Policy | None"
    out: Path | None
    recipe: str | None
    settings: tuple[str, ...]
    base: Path | None
    allow_unknown: float | None
    resume: Path | None
    step: int | None
    more: int
    """Steps to add to those of a resumed run."""
    device: str
    threads: int | None
    save_every: float
    keep_state: bool
    force: bool
    tensorboard: bool
    report: bool
    as_json: bool


@click.command()
@click.argument("corpus", required=False)
@click.option("--field", help="For JSON lines: the field that holds the text.")
@click.option(
    "--bad-rows",
    type=click.Choice(["stop", "skip"]),
    help="What JSON lines without a text, and documents that are not UTF-8, do.  [default: stop]",
)
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.  [default: runs/CORPUS]")
@click.option("--recipe", help="A named configuration; an unknown name lists all.  [default: quick]")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a setting of the recipe.")
@click.option("--seed", help="Same as --set seed=N.")
@click.option("--documents", help='Same as --set documents=...; "lines": each line is a separate text.')
@click.option("--alphabet", help='Same as --set alphabet=...: "characters" or "bytes".')
@click.option("--steps", help="Same as --set steps=N; with --resume, +N adds N steps to the run's.")
@click.option("--from", "base", type=click.Path(path_type=Path), metavar="RUN", help="Begin with the weights of RUN.")
@click.option(
    "--allow-unknown",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="With --from: the share of CORPUS that RUN may not know.  [default: 1]",
)
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue a stopped or finished run.")
@click.option("--step", type=int, help="With --resume: the saved step to continue from.  [default: the last]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--save-every", type=float, default=60.0, show_default=True, help="Seconds between saves.")
@click.option(
    "--keep-state/--no-keep-state",
    default=True,
    show_default=True,
    help="Keep what --resume needs after the end: 4 times the weights.",
)
@click.option("--force", is_flag=True, help="Replace the run in the folder.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard logs to the run's folder.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write report.html to the run's folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    *,
    settings: tuple[str, ...],
    steps: str | None,
    seed: str | None,
    documents: str | None,
    alphabet: str | None,
    **options: Any,
) -> None:
    """Train a model on CORPUS and write a checkpoint.

    CORPUS is pydoc, time-machine, shakespeare, a file, a folder of *.txt files, a quoted pattern such as
    'logs/**/*.log', or - for standard input; all may be compressed by gzip, zstd, xz or bzip2. Ctrl-C and SIGTERM save
    the run; --resume continues it bit for bit, and a finished run for more steps. --from RUN trains RUN's model on
    another text, as a new run.

    time-machine and shakespeare are downloaded once, to the folder $SEGUE_DATA.  [default: ~/.cache/segue]

    For several processes: torchrun --nproc-per-node N -m segue_training CORPUS ...
    """
    more = int(steps) if steps is not None and re.fullmatch(r"\+[1-9][0-9]{0,8}", steps) else 0
    shortcuts = {"steps": None if more else steps, "seed": seed, "documents": documents, "alphabet": alphabet}
    given = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    share_cores()
    _train(Options(settings=(*settings, *given), more=more, **options))


def _train(options: Options) -> None:
    from segue_training.train.distributed import join_process_group
    from segue_training.train.run import train as run
    from segue_training.train.stop import stoppable

    started = time.monotonic()
    use_threads(options.threads)
    _check_together(options)
    folder, specify = _new(options) if options.resume is None else _resumed(options, options.resume)
    import_all()
    with (
        join_process_group(options.device) as group,
        stoppable(folder, is_alone=group.size == 1),
        _claimed(folder, group, options),
    ):
        spec = specify()
        if group.is_first:
            _print_sources(spec)
            if options.resume is None:
                _clear(folder)
        with _reports(spec, group, options) as (report, say):
            for note in spec.notes:
                say(note)
            checkpoint = run(spec, report, group, options.save_every, say)
            with _complete(spec, options):
                written = _write(checkpoint, spec, options, say) if checkpoint is not None else None
        if checkpoint is not None:
            with _complete(spec, options):
                _show(checkpoint, spec, written, options, time.monotonic() - started)


def _print_sources(spec: "RunSpec") -> None:
    from segue_training.reports.sources import DOCUMENT, describe

    for line in describe(spec.corpus.sources, spec.folder / DOCUMENT):
        click.echo(line, err=True)


def _new(options: Options) -> "tuple[Path, Callable[[], RunSpec]]":
    """Return the folder of a new run, and the function that specifies it."""
    from segue_training.recipes import recipe
    from segue_training.settings import override
    from segue_training.train.fine_tuning import load_start, tuning_config
    from segue_training.train.run_spec import begin_run, default_folder

    if (corpus := options.corpus) is None:
        raise ConfigurationError("CORPUS is missing: try segue train pydoc, or segue train --resume RUN")
    usual = recipe(options.recipe or RECIPE)
    if options.base is None:
        start, config, name = None, override(usual, options.settings), options.recipe or RECIPE
    else:
        start = load_start(options.base, options.allow_unknown)
        config = tuning_config(start, usual if options.recipe else None, options.settings)
        name = options.recipe or start.checkpoint.recipe
    folder = options.out or default_folder(corpus, options.field)
    if options.base is not None and folder.resolve() == options.base.resolve():
        raise ConfigurationError(f"{folder} is the run that --from names: give another --out")
    bad_rows = options.bad_rows or "stop"
    return folder, lambda: begin_run(corpus, options.field, name, config, folder, start=start, bad_rows=bad_rows)


def _resumed(options: Options, folder: Path) -> "tuple[Path, Callable[[], RunSpec]]":
    """Return the folder of a run to resume, and the function that specifies it."""
    from segue_training.train.run_spec import resume_run

    lacks_report = options.report and not (folder / REPORT).exists()
    return folder, lambda: resume_run(
        folder, options.step, options.corpus, options.settings, options.more, again=lacks_report
    )


def _check_together(options: Options) -> None:
    """Raise ConfigurationError for an option that would be ignored."""
    if options.resume is None and options.step is not None:
        raise ConfigurationError("--step selects a saved step: give it with --resume RUN")
    if options.resume is None and options.more:
        raise ConfigurationError(f"--steps +{options.more} adds to a run's steps: give it with --resume RUN")
    if options.base is None and options.allow_unknown is not None:
        raise ConfigurationError("--allow-unknown is about the vocabulary of a run: give it with --from RUN")
    new = {
        "--from": options.base,
        "--recipe": options.recipe,
        "--field": options.field,
        "--bad-rows": options.bad_rows,
        "--out": options.out,
        "--force": options.force,
    }
    if options.resume is not None and (given := [name for name, value in new.items() if value]):
        raise ConfigurationError(f"{given[0]} is for a new run: leave it out to resume {options.resume}")


def _write(checkpoint: "Checkpoint", spec: "RunSpec", options: Options, say: "Say") -> Path | None:
    """Write the results; return the report's path."""
    from segue_training.reports.sources import save_sources
    from segue_training.train.checkpoint import save_checkpoint
    from segue_training.train.train_state import delete_train_states

    if options.resume is not None:
        with changing(spec.folder):
            (spec.folder / REPORT).unlink(missing_ok=True)  # it shows the run as it was
    save_sources(spec.folder, spec.corpus.sources)
    save_checkpoint(spec.folder, checkpoint)
    delete_train_states(spec.folder, but_the_last=options.keep_state)
    if not options.report:
        return None
    say(f"writing {REPORT}, with n-gram models and compressors to compare with")
    return _write_report(checkpoint, spec)


@contextmanager
def _complete(spec: "RunSpec", options: Options) -> Iterator[None]:
    """Say of a signal that the checkpoint is complete if it is, and what is missing."""
    from segue_training.train.run_weights import is_complete
    from segue_training.train.stop import signal_of

    try:
        yield
    except KeyboardInterrupt as stop:
        if not is_complete(spec.folder):
            raise
        number, folder = signal_of(stop), quote(str(spec.folder))
        missing = options.report and not (spec.folder / REPORT).exists()
        when = f" before {REPORT} was written" if missing else ""
        remedy = f"; to write the report: segue train --resume {folder}" if missing and options.keep_state else ""
        message = f"stopped by {number.name}{when}; the checkpoint {spec.folder} is complete{remedy}"
        raise Interrupted(message, number) from None


def _show(checkpoint: "Checkpoint", spec: "RunSpec", report: Path | None, options: Options, seconds: float) -> None:
    from rich.console import Console

    from segue_training.reports.console import show, summary

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
def _reports(spec: "RunSpec", group: "ProcessGroup", options: Options) -> "Iterator[tuple[Report, Say]]":
    """Yield what is called with each step's progress and with what comes next; only the first process shows it."""
    from rich.console import Console

    from segue_training.reports.console import ProgressReport

    if not group.is_first:
        yield (lambda _: None), (lambda _: None)
        return
    history = spec.train_state.progression.history if spec.train_state else ()
    with ProgressReport(spec.origin.training, spec.corpus.vocabulary, Console(stderr=True), history) as progress:
        if not options.tensorboard:
            yield progress, progress.say
            return
        from segue_training.reports.tensorboard import TensorBoardReport
        from segue_training.train.trainer import in_turn

        folder, vocabulary = spec.folder / "tensorboard", spec.corpus.vocabulary
        with TensorBoardReport(folder, spec.origin.training, vocabulary, history) as log:
            yield in_turn(progress, log), progress.say


@contextmanager
def _claimed(folder: Path, group: "ProcessGroup", options: Options) -> Iterator[None]:
    """Lock `folder` before anything in it is read; do not leave it empty after a failure."""
    if not group.is_first or (options.resume is not None and not folder.is_dir()):
        group.wait()
        yield
        return
    with unless_empty(folder), locked(folder):
        if options.resume is None and not options.force:
            _check_free(folder)
        group.wait()
        yield


def _check_free(folder: Path) -> None:
    """Raise ConfigurationError if `folder` holds a run."""
    from segue_training.train.checkpoint import is_checkpoint
    from segue_training.train.train_state import train_state_files

    if is_checkpoint(folder):
        raise ConfigurationError(
            f"{folder} holds a checkpoint: give --force to replace it, or another --out "
            f"(to train it further: segue train --resume {quote(str(folder))} --steps +N)"
        )
    if train_state_files(folder):
        raise ConfigurationError(
            f"{folder} holds a stopped run: continue it with --resume {quote(str(folder))}, or give --force to "
            "replace it"
        )


def _clear(folder: Path) -> None:
    """Remove what is left of another run; its checkpoint is replaced at the end."""
    from segue_training.train.train_state import delete_train_states

    with changing(folder):
        delete_train_states(folder)
        (folder / REPORT).unlink(missing_ok=True)
