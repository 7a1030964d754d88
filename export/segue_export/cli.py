"""The commands `segue export` and `segue evaluate`.

`segue --help` imports this module even without torch installed; the commands themselves import what needs torch.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from segue_training.train.threads import share_cores, use_threads

if TYPE_CHECKING:
    from segue_training.data.encoding import EncodedCorpus
    from segue_training.train.run_weights import RunWeights

    from segue_export.checks.evaluation import Subject
    from segue_export.export import Quantization
    from segue_export.manifest import Manifest


_weights = click.option(
    "--weights",
    type=click.Choice(["best", "latest"]),
    help="Of a run: those with the best validation loss, or those of the last saved step.  [default: what it keeps]",
)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True, help="The folder of models."
)
@click.option("--name", help="The model's name.  [default: its corpus's name, in a-z, 0-9, .-_]")
@click.option(
    "--quantize",
    type=click.Choice(["int8", "float16"]),
    help="Store and multiply matrices in 8 bits (for the CPU) or 16 bits (for CUDA).",
)
@click.option(
    "--text",
    help="The text that measures its cost; of a run that has not ended, also the place of its own text.  "
    "[default: the run's, if it is a built-in corpus or the run has not ended]",
)
@_weights
@click.option(
    "--allow-worse",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    metavar="PERCENT",
    help="Maximum rise of the perplexity.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(  # noqa: PLR0913 - one parameter for each option
    *,
    checkpoint: Path,
    models: Path,
    name: str | None,
    quantize: Literal["int8", "float16"] | None,
    text: str | None,
    weights: Literal["best", "latest"] | None,
    allow_worse: float,
    as_json: bool,
) -> None:
    """Write the run in the folder CHECKPOINT as an ONNX artifact, the next version in MODELS/NAME.

    Of a run that was stopped, or is still in training, it takes the best weights so far, and validates them. The graph
    is compared with torch first; if they differ, nothing is written.
    """
    from rich.console import Console
    from rich.markup import escape
    from segue_training.train.run_weights import load_run
    from segue_training.train.stop import interruptible

    from segue_export.export import export_run

    console = Console(stderr=True, soft_wrap=True)
    doing = f"exporting {escape(str(checkpoint))}, and comparing it with torch"
    with interruptible(), console.status(doing):
        run = load_run(checkpoint, weights)
        if run.sentence:
            console.print(f"{checkpoint}: {run.sentence}", markup=False, highlight=False)
        quantization = _quantization(run, checkpoint, quantize, text, allow_worse / 100) if quantize else None
        encoded = None if quantization else _text_at_hand(run, checkpoint, text)
        done = export_run(run, models, name, quantization, text, encoded=encoded)
    if done.difference:
        click.echo(done.difference, err=True)
    if as_json:
        report: dict[str, object] = {
            "folder": str(done.folder),
            "bytes": done.graph_bytes,
            "parity": done.parity.graph,
            "run": None if done.manifest.run is None else asdict(done.manifest.run),
            "float16_rise": done.manifest.float16_rise,
        }
        if done.cost:
            report |= {"perplexity": done.cost.before.perplexity, f"perplexity_{quantize}": done.cost.after.perplexity}
        click.echo(json.dumps(report))
        return
    click.echo(
        f"{done.folder}: {done.manifest.layers} x {done.manifest.hidden} {done.manifest.architecture}, "
        f"{done.graph_bytes / 1e6:.1f} MB; differs from torch by {done.parity.graph:.1e} at most"
    )
    if not quantize:
        click.echo(_float16(done.manifest))
    if done.cost:
        click.echo(
            f"perplexity {done.cost.before.perplexity:.4f} in float32, {done.cost.after.perplexity:.4f} in {quantize} "
            f"({done.cost.share:+.2%})"
        )


def _float16(manifest: "Manifest") -> str:
    """Say what float16 would cost on a GPU."""
    if manifest.float16_rise is None:
        return "in float16 on a GPU: not measured, so that float32 is served there; --text SOURCE measures it"
    return f"in float16 on a GPU: perplexity {manifest.float16_rise:+.3%}"


def _text_at_hand(run: "RunWeights", folder: Path, text: str | None) -> "EncodedCorpus | None":
    """Return `text`, or else the run's own if it can still be read."""
    from segue_training.data.corpus import STANDARD_INPUT
    from segue_training.data.file_names import text_to_name
    from segue_training.errors import TrainingError
    from segue_training.train.train_state import read_record

    from segue_export.checks.evaluation import checkpoint_subject

    record = read_record(folder)
    source, field = text, None
    if source is None and record is not None:
        source, field = text_to_name(record[0].source), record[0].field
    if source is None or source == STANDARD_INPUT:
        return None
    try:
        return _encode(source, field, checkpoint_subject(run.checkpoint))
    except TrainingError:
        if text is not None:
            raise
        return None


def _own_text(folder: Path) -> str:
    """Say how to name the text of a finished run, if it is known where that was."""
    from segue_training.data.file_names import shell_word, text_to_name
    from segue_training.train.train_state import read_record

    record = read_record(folder)
    if record is None or record[0].field is not None:
        return "name a text file with --text FILE"
    return f"give one, such as the run's own, with --text {shell_word(text_to_name(record[0].source))}"


def _quantization(
    run: "RunWeights", folder: Path, weights: Literal["int8", "float16"], source: str | None, most: float
) -> "Quantization":
    """Encode the text that measures the cost: `source`, or else the checkpoint's own corpus if its place is known."""
    from segue_training.data.corpus import NAMED_CORPORA
    from segue_training.data.file_names import text_to_name

    from segue_export.checks.evaluation import checkpoint_subject
    from segue_export.export import Quantization

    checkpoint = run.checkpoint
    name = source or (text_to_name(run.origin.source) if run.origin else checkpoint.corpus.name)
    if source is None and run.origin is None and name not in NAMED_CORPORA:
        raise click.UsageError(f"--quantize needs a text to measure its cost: {_own_text(folder)}")
    return Quantization(weights, _encode(name, None, checkpoint_subject(checkpoint)), most)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("text")
@click.option("--dynamic", is_flag=True, help="Also score a model that learns from what it was scored on.")
@click.option("--training-text", metavar="SOURCE", help="The text that n-gram models and compressors learn from.")
@click.option("--field", help="For JSON lines: the field that holds the text.")
@_weights
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(  # noqa: PLR0913 - one parameter for each option
    *,
    model: Path,
    text: str,
    dynamic: bool,
    training_text: str | None,
    field: str | None,
    weights: Literal["best", "latest"] | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Print the perplexity of MODEL on TEXT, compared with n-gram models and compressors.

    MODEL is the folder of a run, finished or not, or of an artifact, models/NAME/VERSION. TEXT is a corpus, a file, a
    folder of *.txt files, a quoted pattern such as 'logs/**/*.log', or - for standard input, compressed or not. If
    MODEL was trained on TEXT, only the unseen part, the last 10 %, is scored.
    """
    share_cores()
    from rich.console import Console
    from segue_training.train.stop import interruptible

    from segue_export.checks import evaluation, evaluation_report

    use_threads(threads)
    evaluation.check_is_text(text)
    with interruptible():
        subject = evaluation.load_subject(model, threads, weights)
        if subject.sentence:
            click.echo(f"{model}: {subject.sentence}", err=True)
        if dynamic:
            evaluation.check_can_learn(subject)  # fail early
        with Console(stderr=True).status(f"scoring {text}"):
            encoded = _encode(text, field, subject)
            training = _encode(training_text, None, subject) if training_text else None
            result = evaluation.evaluate(subject, encoded, training, dynamic=dynamic)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "model": str(model),
                    "text": text,
                    "weights": subject.sentence or None,
                    **evaluation_report.summary(result),
                }
            )
        )
        return
    Console().print(evaluation_report.table(f"{text} ({result.part})", result))
    if training is None and result.part == "whole":
        click.echo("n-gram models are omitted: give a text for them to learn from with --training-text SOURCE")


def _encode(source: str, field: str | None, subject: "Subject") -> "EncodedCorpus":
    from segue_training.data.corpus import find_corpus
    from segue_training.data.encoding import encode_with
    from segue_training.reports.sources import describe

    encoded = encode_with(find_corpus(source, field), subject.vocabulary, subject.reading)
    if encoded.sources.skipped or len(encoded.sources.texts) > 1:
        for line in describe(encoded.sources):
            click.echo(line, err=True)
    return encoded
