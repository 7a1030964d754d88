"""A run's report as one self-contained HTML file.

`summary` gathers the content, this module words it, and `report.html.jinja` lays it out. The template escapes every
text; invisible characters are shown as signs (see `glyphs`).
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segue_training.atomic import write_atomically
from segue_training.errors import TrainingError
from segue_training.evaluation.baselines import Baseline
from segue_training.evaluation.compressors import COMPRESSORS
from segue_training.evaluation.perplexity import to_perplexity
from segue_training.evaluation.surprisal import Alternative, Surprisal
from segue_training.models import ModelConfig
from segue_training.reports.charts import Curve, line_chart
from segue_training.reports.console import duration
from segue_training.reports.summary import RunReport, gather
from segue_training.text.glyphs import glyph, legible, one_line
from segue_training.text.vocabulary import Ids
from segue_training.train.checkpoint import Checkpoint
from segue_training.train.train_state import Evaluation

TEMPLATE: Final = "report.html.jinja"

SHADES: Final = 9
"""Shades of surprisal: 0..1 nats, 1..2, ...; the last has no upper bound."""

RARE: Final = 1e-3
"""Probabilities below this are written as "1 in N"."""

NAMES: Final[Mapping[str, str]] = {
    "lstm": "LSTM",
    "gru": "GRU",
    "gru-reset-before": "GRU (reset before)",
    "rnn": "RNN",
    "mlp": "MLP",
}


@dataclass(frozen=True)
class Bar:
    """A row of the comparison with the baselines."""

    name: str
    nats: float
    perplexity: float
    share: float
    """Length in percent of the longest bar."""
    is_model: bool


def write_report(path: Path, checkpoint: Checkpoint, validation_N: Ids, baselines: Sequence[Baseline]) -> None:
    """Write the report of a run to `path` atomically. Raises TrainingError.

    `validation_N`: the ids of the validation text; `baselines`: their scores on it.
    """
    content = render(gather(checkpoint, validation_N, baselines)).encode()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise TrainingError(f"cannot write the report {path}: {error.strerror}; the checkpoint is kept") from error


def render(report: RunReport) -> str:
    """Return the page, a function of `report` alone."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(_FILTERS)
    checkpoint = report.checkpoint
    return environment.get_template(TEMPLATE).render(
        report=report,
        checkpoint=checkpoint,
        title=f"{model_name(checkpoint.model)} on {checkpoint.corpus.name}",
        symbol="byte" if checkpoint.vocabulary.alphabet == "bytes" else "character",
        bars=bars(report),
        charts=_charts(report),
        gain=_gain(report),
        tools=asdict(checkpoint.tools),
        shades=range(SHADES),
    )


def model_name(config: ModelConfig) -> str:
    """Return a short name: "LSTM 2 x 512"."""
    return f"{NAMES[config.architecture]} {config.layers} × {config.hidden}"  # noqa: RUF001 - a product


def bars(report: RunReport) -> list[Bar]:
    """Return the bars of the model and its baselines, worst first; non-finite ones are as long as the longest."""
    fresh = report.checkpoint.validation.fresh
    rows = [(b.name, b.nats, False) for b in report.baselines] + [("this model", fresh.nats, True)]
    longest = max((nats for _, nats, _ in rows if math.isfinite(nats)), default=1.0) or 1.0
    return [
        Bar(name, nats, to_perplexity(nats), 100 * min(nats / longest, 1.0), is_model)
        for name, nats, is_model in sorted(rows, key=lambda row: -row[1])
    ]


def percent(probability: float) -> str:
    """Format a probability: "37 %", "0.42 %", "1 in 12,000"."""
    if probability < sys.float_info.min:  # its inverse may overflow
        return "never"
    if probability < RARE:
        return f"1 in {_two_digits(1 / probability):,}"
    digits = 0 if probability >= 0.0995 else 1 if probability >= 0.00995 else 2  # noqa: PLR2004 - two significant digits
    return f"{100 * probability:.{digits}f} %"


def shade(surprisal: Surprisal) -> int:
    """Return the shade of a character."""
    return min(int(min(surprisal.nats, SHADES)), SHADES - 1)


def sentence(surprisal: Surprisal) -> str:
    """Describe the prediction of a character: "t 3.1 %; instead e 60 %, a 12 %"."""
    instead = ", ".join(f"{sign(other)} {percent(other.probability)}" for other in surprisal.alternatives)
    return f"{_glyphs(surprisal.character)}  {percent(surprisal.probability)};  instead  {instead}"


def sign(alternative: Alternative) -> str:
    """Return an alternative in visible characters."""
    return _glyphs(alternative.text) if len(alternative.text) == 1 else alternative.text


def _glyphs(text: str) -> str:
    return glyph(text) if len(text) == 1 else legible(text)


def _two_digits(value: float) -> int:
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return int(round(value / scale) * scale)


def _charts(report: RunReport) -> tuple[Markup, ...]:
    history, kept = report.checkpoint.history, report.checkpoint.steps
    if not history:
        return ()
    curves = (
        Curve("training", "first", [(e.step, e.training) for e in history]),
        Curve("validation", "second", [(e.step, e.validation) for e in history]),
    )
    rates = Curve("learning rate", "first", report.learning_rates, is_dense=True)
    unit = "byte" if report.checkpoint.vocabulary.alphabet == "bytes" else "character"
    return (
        Markup(line_chart("Loss against steps", curves, "step", f"nats per {unit}", kept)),  # noqa: S704 - ours
        Markup(line_chart("Learning rate against steps", [rates], "step", "learning rate", kept)),  # noqa: S704 - ours
    )


def _gain(report: RunReport) -> str | None:
    """Compare the model with its best baseline; None without one, or if it needs no nats (a repeating text)."""
    best = min(report.baselines, key=lambda baseline: baseline.nats, default=None)
    if best is None or best.nats <= 0:
        return None
    change = 1 - report.checkpoint.validation.fresh.nats / best.nats
    copies = ", which copies what the text repeats word for word" if best.name in COMPRESSORS and change <= 0 else ""
    more = "fewer" if change > 0 else "more"
    return f"{100 * abs(change):.0f} % {more} nats than the best baseline, {best.name}{copies}"


def _speed(history: Sequence[Evaluation]) -> str:
    last = history[-1]
    return f"{last.symbols / max(last.seconds, 1e-9):,.0f}"


_FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "duration": duration,
    "exp": math.exp,
    "legible": legible,
    "one_line": one_line,
    "percent": percent,
    "sentence": sentence,
    "shade": shade,
    "sign": sign,
    "glyphs": _glyphs,
    "speed": _speed,
}
