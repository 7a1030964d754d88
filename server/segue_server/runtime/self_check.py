"""Whether results on this host depend on batching or tick length, and the class of this host.

ONNX Runtime promises nothing: a kernel may add in another order when a batch is larger. So the server runs the same
sequences alone and together, at several tick lengths, and compares symbols, log-probabilities and final states, to
the bit.

Nor do two hosts round alike: kernels are chosen by what a processor can do. A digest of the results is the class of a
host, for the model: hosts of one class have computed some thousands of steps to the same bits.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np

from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.sampling import Sampling
from segue_server.engine.sequence import Sequence, State, StepOutput
from segue_server.errors import UnfitModel

TICK_LENGTHS: Final = (1, 5, 32)
HOST_CLASS_BYTES: Final = 16
_PREFILL_WORK: Final = 500
_ALONE: Final = 48
"""How many of them run alone as well: enough for all combinations of settings and many lengths."""
_LARGE: Final = 1024
"""A vocabulary beyond this has shorter sequences: each step costs as much as the vocabulary is large."""
_SORTING: Final = 10

Outcome = list[tuple[bytes, ...]]


@dataclass(frozen=True)
class SelfCheck:
    """The results of a model on this host."""

    reproducible: bool
    """Whether every batch size and tick length gave the same."""
    host_class: bytes
    """Digest of the results, 16 bytes."""


def check(model: Model) -> SelfCheck:
    """Compare every batch size and tick length with the same sequences run alone; costs a second or so.

    Raises UnfitModel if the results are not finite numbers.
    """
    known = _known_characters(model)
    alone = list(chain.from_iterable(_outcome(model, known, [row], TICK_LENGTHS[-1]) for row in range(_ALONE)))
    together = (_outcome(model, known, range(size), length) for size in model.capacity.sizes for length in TICK_LENGTHS)
    same = all(ours == theirs for outcome in together for ours, theirs in zip(outcome, alone, strict=False))
    digest = hashlib.blake2b(b"".join(chain.from_iterable(alone)), digest_size=HOST_CLASS_BYTES)
    return SelfCheck(same, digest.digest())


def check_sequences(model: Model, count: int) -> list[Sequence]:
    """Return some of the sequences of the check: each reads a text and writes on, both scored."""
    known = _known_characters(model)
    return [_sequence(model, known, row) for row in range(count)]


def run_together(model: Model, sequences: Iterable[Sequence], steps: int) -> list[list[StepOutput]]:
    """Run sequences together, in ticks of `steps` steps; return the outputs of each."""
    engine = Engine(model)
    by_sequence: dict[Sequence, list[StepOutput]] = {sequence: [] for sequence in sequences}
    for sequence in by_sequence:
        engine.add(sequence)
    while len(engine):
        for output in [*engine.step(steps, steps * _PREFILL_WORK), *engine.collect()]:
            by_sequence[output.sequence].append(output)
    return list(by_sequence.values())


def _outcome(model: Model, known: str, rows: Iterable[int], steps: int) -> Outcome:
    """Run the sequences `rows` together; return the results of each, as bytes."""
    outputs = run_together(model, (_sequence(model, known, row) for row in rows), steps)
    return [_bytes_of(model, each) for each in outputs]


def _bytes_of(model: Model, outputs: list[StepOutput]) -> tuple[bytes, ...]:
    written = np.concatenate([output.written for output in outputs])
    scores = np.concatenate([output.log_probabilities for output in outputs])
    state = outputs[-1].state
    if state is None or not np.isfinite(scores).all():
        raise UnfitModel(
            f"model {model.name} version {model.version}: its results are not finite numbers within "
            f"{_least_symbols(model)[0]} characters, as its weights are too large; train it again, or remove it"
        )
    return written.tobytes(), scores.tobytes(), state.h.tobytes(), state.c.tobytes()


def _least_symbols(model: Model) -> tuple[int, int]:
    """Return how many symbols a sequence reads and writes, at least."""
    return (40, 12) if len(model.vocabulary) <= _LARGE else (6, 3)


def _known_characters(model: Model) -> str:
    """Return all characters that can stand inside a text."""
    return "".join(model.vocabulary.characters[1:]).replace(model.manifest.begin, "") or model.manifest.begin


def _sequence(model: Model, known: str, row: int) -> Sequence:
    """Return a sequence whose length and settings depend on the model's vocabulary and `row` alone."""
    prefill, decode = _least_symbols(model)
    generator = np.random.default_rng(row)
    text = "".join(known[i] for i in generator.integers(len(known), size=prefill + row % 7))
    ids = model.vocabulary.encode(text)
    state = State.after_first(int(ids[0]), model.state_shape, seed=row)
    # To draw from most of a large vocabulary takes a sort of it, so only a few rows do.
    top_p = 0.8 if len(model.vocabulary) <= _LARGE or row < _SORTING else 0.01
    sampling = (Sampling(), Sampling(0.7), Sampling(1.2, 5), Sampling(0.9, 0, top_p), Sampling(0.0))[row % 5]
    return Sequence(state, ids[1:], decode + row % 5, sampling, score_prefill=True, score_decode=True)
