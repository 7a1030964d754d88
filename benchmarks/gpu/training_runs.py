"""What training does on a device: d2l's speeds, the bits of a captured step, and how well the large recipe learns.

Every figure is a row of its own, and a row whose run fails says why instead of a figure. The text is any corpus that
`segue train` takes; "pydoc" needs no network. On a CPU all models are tiny, to try the functions themselves: their
figures say nothing, and nothing is trained in a short precision.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from types import MappingProxyType
from typing import Any, Final, Literal

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as `segue train` does

import torch
from segue_training.data.encoding import EncodedCorpus, encode_corpus
from segue_training.evaluation.evaluate import perplexity
from segue_training.recipes import TrainingConfig, best_gpu
from segue_training.studies.reproduction.chapters import configuration
from segue_training.studies.reproduction.rows import ROWS, Row
from segue_training.train.distributed import ProcessGroup
from segue_training.train.run import training_data
from segue_training.train.trainer import Trainer, TrainingData

Precision = Literal["float32", "bfloat16", "float16"]
ENDLESS: Final = 10**8
"""Steps that no measurement comes to."""
WARM_UP: Final = 24
"""Steps before a measurement: libraries are loaded, kernels chosen, a graph recorded."""
SAFETY: Final = 0.95
"""Share of the seconds that a whole training may plan with."""

CANDIDATES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # Twice the dropout once gave no gain in 6,000 steps: noise that strong needs time, which a GPU has. Units of
        # the embedding are dropped too, and the decay of AdamW, times a rate of 0.002, matters only if it is large.
        "patient": {
            "steps": 30_000,
            "input_dropout": 0.1,
            "layer_dropout": 0.4,
            "output_dropout": 0.5,
            "weight_dropout": 0.6,
            "weight_decay": 0.1,
        },
        # Width instead of depth: as many weights, fewer kernels that wait for each other, more to drop.
        "wide": {
            "layers": 2,
            "hidden": 1536,
            "steps": 20_000,
            "learning_rate": 1.5e-3,
            "input_dropout": 0.1,
            "layer_dropout": 0.4,
            "output_dropout": 0.5,
            "weight_dropout": 0.6,
            "weight_decay": 0.1,
        },
        "recipe": {},
    }
)
"""Changes to the recipe best-gpu, none of them measured yet; the first is the default."""
DEFAULT: Final = next(iter(CANDIDATES))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run."""

    name: str
    notes: tuple[str, ...] = ()
    """What the trainer said, such as why there was no graph."""
    failure: str = ""
    """Why there is no figure; "" if there is one."""


@dataclass(frozen=True, kw_only=True)
class Speed(Measured):
    """Symbols a second of a steady loop, without the first steps and without evaluations."""

    tokens_per_second: float | None = None
    published: float | None = None
    """By d2l, on its GPU; None where there is nothing to compare, as with the tiny models of a CPU."""

    @property
    def ratio(self) -> float | None:
        """How many times the published speed."""
        return self.tokens_per_second / self.published if self.tokens_per_second and self.published else None


@dataclass(frozen=True, kw_only=True)
class Agreement(Measured):
    """Two runs that should give the same losses."""

    steps: int = 0
    same_bits: bool | None = None
    largest_difference: float | None = None
    """Of the losses of one step, in nats."""


@dataclass(frozen=True, kw_only=True)
class Quality(Measured):
    """A whole training, and the score of all validation text from the zero state, with fixed weights, in float32."""

    precision: str
    steps: int = 0
    seconds: float | None = None
    """Of training with its evaluations."""
    characters_per_second: float | None = None
    nats: float | None = None


class Enough(Exception):  # noqa: N818
    """Ends a run once it is measured."""


def speeds(source: str, device: str, seconds: float) -> tuple[Speed, ...]:
    """Measure every model of d2l's chapters on the letters of `source`, each for `seconds`. Raises CorpusError.

    On a GPU, the LSTMs also without a graph, and the fused one with TF32, which PyTorch's defaults, and so d2l's
    figures, allow.
    """
    data = training_data(encode_corpus(source, configuration(ROWS[0])))
    runs: list[tuple[Row, dict[str, Any]]] = [(row, {}) for row in ROWS if row.published_speed]
    if device != "cpu":
        runs += [(_row(name), {"capture": "no"}) for name in ("lstm-scratch", "lstm")]
        runs += [(_row("lstm"), {"tf32": "yes"})]
    return tuple(_speed(row, changes, data, device, seconds) for row, changes in runs)


def agreements(source: str, device: str, steps: int = 64) -> tuple[Agreement, ...]:
    """Compare the losses of the same run twice, with and without guarantee, and of captured and eager runs.

    The guarantee needs a setting of cuBLAS that is read once: call this before anything else uses a GPU, or set
    CUBLAS_WORKSPACE_CONFIG=:4096:8. Raises CorpusError.
    """
    fused = replace(configuration(_row("lstm")), partition="stream", steps=steps, evaluations=1)
    data = training_data(encode_corpus(source, fused))
    dropped = replace(fused, layers=2, weight_dropout=0.3, layer_dropout=0.2, output_dropout=0.2)
    scratch = replace(fused, implementation="scratch", initialization="normal")
    exact = replace(fused, deterministic="yes")
    pairs = (
        ("fused: twice, deterministic", exact, exact),
        ("fused: twice", fused, fused),
        ("scratch: twice", scratch, scratch),
        ("scratch: captured, eager", *_both_ways(scratch, device)),
        ("scratch in bfloat16: captured, eager", *_both_ways(replace(scratch, precision="bfloat16"), device)),
        ("fused with dropout: captured, eager", *_both_ways(dropped, device)),
    )
    return tuple(_agreement(name, pair, data, device) for name, *pair in pairs)


def qualities(
    source: str,
    device: str,
    seconds: float,
    candidates: tuple[str, ...] = (DEFAULT,),
    precisions: tuple[Precision, ...] = ("bfloat16", "float32"),
) -> tuple[Quality, ...]:
    """Train each candidate in each precision, each for at most about `seconds`. Raises CorpusError.

    The number of steps is the candidate's, or as many as a short measurement says the time allows: the learning rate
    must come to its end.
    """
    corpus = encode_corpus(source, best_gpu())
    wanted = product(candidates, ("float32",) if device == "cpu" else precisions)
    return tuple(_quality(name, candidate(name, each), corpus, device, seconds) for name, each in wanted)


def candidate(name: str, precision: Precision) -> TrainingConfig:
    """Return the recipe best-gpu with the changes of candidate `name`."""
    return replace(best_gpu(), **CANDIDATES[name], precision=precision)


def steady(
    data: TrainingData, config: TrainingConfig, device: str, seconds: float, say: Callable[[str], None]
) -> float:
    """Return the symbols a second of the training loop over about `seconds`."""
    trainer = _trainer(data, replace(config, steps=ENDLESS, evaluations=1), device, say)
    began, ended, symbols = 0.0, 0.0, 0

    def after_step(now: Trainer) -> None:
        nonlocal began, ended, symbols
        if now.progression.step == WARM_UP:
            _finish_queue(device)
            began, symbols = time.perf_counter(), now.progression.symbols
        elif now.progression.step > WARM_UP and time.perf_counter() - began >= seconds:
            _finish_queue(device)
            ended, symbols = time.perf_counter(), now.progression.symbols - symbols
            raise Enough

    try:
        trainer.train(lambda _: None, after_step)
    except Enough:
        return symbols / (ended - began)
    raise AssertionError(f"a run of {ENDLESS} steps has ended")


def _speed(row: Row, changes: Mapping[str, Any], data: TrainingData, device: str, seconds: float) -> Speed:
    outcome = Outcome()
    with outcome.caught():
        config = replace(configuration(row), **changes)
        outcome.figures["tokens_per_second"] = steady(data, config, device, seconds, outcome.say)
    name = " ".join([row.name, *(f"{key}={value}" for key, value in changes.items())])
    published = None if device == "cpu" else row.published_speed
    return Speed(name=name, published=published, **outcome.fields())


def _both_ways(config: TrainingConfig, device: str) -> tuple[TrainingConfig, TrainingConfig]:
    return replace(config, capture="auto" if device == "cpu" else "yes"), replace(config, capture="no")


def _agreement(name: str, pair: Iterable[TrainingConfig], data: TrainingData, device: str) -> Agreement:
    outcome = Outcome()
    with outcome.caught():
        one, other = (_losses(data, config, device, outcome.say) for config in pair)
        largest = max(abs(a - b) for a, b in zip(one, other, strict=True))
        outcome.figures |= {"steps": len(one), "same_bits": one == other, "largest_difference": largest}
    return Agreement(name=name, **outcome.fields())


def _losses(data: TrainingData, config: TrainingConfig, device: str, say: Callable[[str], None]) -> list[float]:
    losses: list[float] = []
    _trainer(data, config, device, say).train(lambda now: losses.append(now.loss), lambda _: None)
    return losses


def _quality(name: str, config: TrainingConfig, corpus: EncodedCorpus, device: str, seconds: float) -> Quality:
    outcome = Outcome()
    with outcome.caught():
        data = training_data(corpus)
        speed = steady(data, config, device, min(5.0, seconds / 20), lambda _: None)
        steps = max(WARM_UP, min(config.steps, int(speed * seconds * SAFETY / (config.batch * config.time))))
        trainer = _trainer(data, replace(config, steps=steps), device, outcome.say)
        began = time.perf_counter()
        model = trainer.train(lambda _: None, lambda _: None).model
        taken = time.perf_counter() - began
        outcome.figures |= {"steps": trainer.progression.step, "seconds": taken}
        outcome.figures["characters_per_second"] = trainer.progression.symbols / taken
        outcome.figures["nats"] = perplexity(model, corpus.validation[: _scored(device)], corpus.vocabulary).nats
    return Quality(name=name, precision=config.precision, **outcome.fields())


@dataclass
class Outcome:
    """What becomes of a run: its figures, what was said, and why it ended early."""

    figures: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    failure: str = ""

    def say(self, sentence: str) -> None:
        """Keep what the trainer says."""
        self.said.append(sentence)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Note a failure of the block instead of raising it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, the other rows are still worth measuring
            self.failure = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"

    def fields(self) -> dict[str, Any]:
        """Return the fields of a row."""
        return {**self.figures, "notes": tuple(self.said), "failure": self.failure}


def _trainer(data: TrainingData, config: TrainingConfig, device: str, say: Callable[[str], None]) -> Trainer:
    if device == "cpu":
        data, config = replace(data, validation=data.validation[:500]), _tiny(config)
    return Trainer(data, config, ProcessGroup(device=torch.device(device)), say=say)


def _tiny(config: TrainingConfig) -> TrainingConfig:
    return replace(config, hidden=16, embedding=min(config.embedding, 16), batch=8, time=8, evaluations=1)


def _scored(device: str) -> int | None:
    return 2000 if device == "cpu" else None


def _row(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def _finish_queue(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
