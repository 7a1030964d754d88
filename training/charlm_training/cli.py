"""The commands `charlm train` and `charlm evaluate`.

`charlm --help` reads this module even where torch is not installed: the commands import what needs it.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from charlm_training.errors import ConfigurationError


@click.command()
@click.argument("corpus")
@click.option("--out", type=click.Path(path_type=Path), help="The checkpoint's folder.  [default: runs/CORPUS]")
@click.option("--recipe", default="quick", show_default=True, help="quick, small or d2l-lstm.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a setting of the recipe.")
@click.option("--seed", type=int, help="The same as --set seed=N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--force", is_flag=True, help="Replace the checkpoint that is in the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(  # noqa: PLR0913 - one parameter for each option
    *,
    corpus: str,
    out: Path | None,
    recipe: str,
    settings: tuple[str, ...],
    seed: int | None,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Train a model on CORPUS and write a checkpoint.

    CORPUS is pydoc, time-machine, shakespeare, a file, a folder of *.txt files, or - for standard input.
    """
    _share_cores()
    from rich.console import Console

    from charlm_training import recipes
    from charlm_training.checkpoint import save_checkpoint
    from charlm_training.corpus import load_corpus
    from charlm_training.report import ProgressReport, show, summary
    from charlm_training.run import run
    from charlm_training.settings import override

    seeds = () if seed is None else (f"seed={seed}",)
    config = override(recipes.recipe(recipe), (*settings, *seeds))
    text = load_corpus(corpus)
    began = time.monotonic()
    folder = out or Path("runs") / text.name
    with _output_folder(folder, force=force):
        _use_threads(threads)
        with ProgressReport(config.steps, config.batch * config.time, Console(stderr=True)) as report:
            checkpoint = run(text, recipe, config, report)
        save_checkpoint(folder, checkpoint)
    if as_json:
        click.echo(summary(checkpoint, str(folder), time.monotonic() - began))
    else:
        show(checkpoint, Console())
        click.echo(f"checkpoint: {folder}")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("text")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(checkpoint: Path, text: str, threads: int | None, *, as_json: bool) -> None:
    """Print the perplexity of CHECKPOINT on TEXT, read from its beginning.

    TEXT is a corpus, a file, a folder of *.txt files, or - for standard input. Of the corpus that CHECKPOINT
    was trained on, the part that it has not seen is scored: the last 10 %.
    """
    _share_cores()
    from rich.console import Console

    from charlm_training.checkpoint import load_checkpoint
    from charlm_training.corpus import load_corpus
    from charlm_training.report import figures, perplexities
    from charlm_training.run import score

    _use_threads(threads)
    loaded = load_checkpoint(checkpoint)
    part, result = score(loaded, load_corpus(text))
    if as_json:
        click.echo(json.dumps({"checkpoint": str(checkpoint), "text": text, "part": part, **figures(result)}))
    else:
        Console().print(perplexities({f"{text} ({part})": result}))


@contextmanager
def _output_folder(folder: Path, *, force: bool) -> Iterator[None]:
    """Make sure, before the work, that a checkpoint can be written to `folder`; leave none empty."""
    from charlm_training.checkpoint import is_checkpoint

    try:
        if is_checkpoint(folder) and not force:
            raise ConfigurationError(f"{folder} holds a checkpoint: give --force to replace it, or another --out")
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror}; give another --out") from error
    try:
        yield
    except BaseException:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _share_cores() -> None:
    """Let OpenMP's threads spin only briefly for each other. Call before torch is imported, which fixes it.

    By default they spin for long: where another process needs one of the cores, training becomes several times
    slower. Where they do not spin at all, it is half as fast on idle cores.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _use_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
