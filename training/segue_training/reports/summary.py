"""The content of a run's HTML report, gathered from its checkpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from segue_training.errors import ConfigurationError
from segue_training.evaluation.baselines import Baseline
from segue_training.evaluation.sample import LINE_FEED, Sampler
from segue_training.evaluation.surprisal import Surprisal, passage, surprisals
from segue_training.recipes import recipe
from segue_training.text.vocabulary import Documents, Ids
from segue_training.train.checkpoint import Checkpoint
from segue_training.train.schedule import learning_rate

TEMPERATURES: Final = (0.5, 0.8, 1.0)

SAMPLED: Final = 600
"""Characters of each sample."""

PASSAGE: Final = 2400
"""Symbols of the validation text whose surprisal is shown."""

SURPRISING: Final = 12
"""Length of the list of most surprising characters."""

CONTEXT: Final = 40
"""Characters shown before each of them."""

RATES: Final = 200
"""Points of the learning rate curve."""


@dataclass(frozen=True)
class Sample:
    """A text by the model."""

    temperature: float
    text: str


@dataclass(frozen=True)
class Setting:
    """A setting of the run."""

    name: str
    value: str
    usual: str | None
    """The recipe's value if it differs."""


@dataclass(frozen=True)
class Surprise:
    """One of the most surprising characters of the passage."""

    index: int
    """Its index in the passage."""
    context: str
    surprisal: Surprisal


@dataclass(frozen=True)
class RunReport:
    """The content of the report."""

    checkpoint: Checkpoint
    parameters: int
    baselines: tuple[Baseline, ...]
    samples: tuple[Sample, ...]
    passage: tuple[Surprisal, ...]
    """The beginning of the validation text, read from the zero state."""
    surprises: tuple[Surprise, ...]
    """In the passage, most surprising first."""
    settings: tuple[Setting, ...]
    learning_rates: tuple[tuple[float, float], ...]
    """(step, rate) up to the last evaluation."""


def gather(checkpoint: Checkpoint, validation_N: Ids, baselines: Sequence[Baseline]) -> RunReport:
    """Sample from the model and score `validation_N`, the ids of the validation text."""
    model, vocabulary, documents = checkpoint.build_model(), checkpoint.vocabulary, checkpoint.documents
    sampler = Sampler(vocabulary, checkpoint.begin, documents)
    passage_N = passage(vocabulary, validation_N, PASSAGE, documents)
    scored = surprisals(model, vocabulary, passage_N, documents=documents)
    return RunReport(
        checkpoint=checkpoint,
        parameters=sum(weight.numel() for weight in model.parameters()),
        baselines=tuple(baselines),
        samples=tuple(Sample(t, sampler(model, SAMPLED, temperature=t)) for t in TEMPERATURES),
        passage=scored,
        surprises=_surprises(scored, documents),
        settings=tuple(_settings(checkpoint)),
        learning_rates=_learning_rates(checkpoint),
    )


def _surprises(scored: Sequence[Surprisal], documents: Documents) -> tuple[Surprise, ...]:
    most = sorted(range(len(scored)), key=lambda i: (-scored[i].nats, i))[:SURPRISING]
    return tuple(Surprise(i, _before(scored, i, documents), scored[i]) for i in most)


def _before(scored: Sequence[Surprisal], index: int, documents: Documents) -> str:
    """Return the characters before the one at `index`, for documents only those of the same document."""
    text = "".join(other.character for other in scored[max(index - CONTEXT, 0) : index])
    return text.rpartition(LINE_FEED)[2] if documents == "lines" else text


def _settings(checkpoint: Checkpoint) -> Iterator[Setting]:
    config = checkpoint.training
    try:
        usual = recipe(checkpoint.recipe)
    except ConfigurationError:  # a recipe of another version of segue
        usual = config
    for name, value in asdict(config).items():
        recipe_value = getattr(usual, name)
        yield Setting(name, str(value), None if value == recipe_value else str(recipe_value))


def _learning_rates(checkpoint: Checkpoint) -> tuple[tuple[float, float], ...]:
    last = checkpoint.history[-1].step if checkpoint.history else 0
    steps = sorted({last * i // RATES for i in range(RATES + 1)})
    return tuple((step, learning_rate(max(step - 1, 0), checkpoint.training)) for step in steps if step > 0)
