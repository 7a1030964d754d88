"""Whether results on this host are independent of company and of tick length, to the bit, and what they are.

ONNX Runtime promises no such thing: a kernel may add in another order when a batch is larger. So the server runs
the same sequences alone and together, at several tick lengths, and compares symbols, log-probabilities and
final states.

Nor do two hosts round alike: kernels are chosen by what a processor can do. A digest of what the sequences gave is
the class of a host, for the model: hosts of one class have computed some thousands of steps to the same bits.
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

BATCH_SIZES: Final = (2, 7, 256)
TICK_LENGTHS: Final = (1, 5, 32)
HOST_CLASS_BYTES: Final = 16
_READING_WORK: Final = 500
_ALONE: Final = 48
"""How many of them run alone as well: enough that all settings and many lengths meet."""
_READ: Final = 40
_WRITTEN: Final = 12

Outcome = list[tuple[bytes, ...]]


@dataclass(frozen=True)
class SelfCheck:
    """What a model does on this host."""

    reproducible: bool
    """Whether it gave the same in any company."""
    host_class: bytes
    """Digest of what it gave, 16 bytes."""


def check(model: Model) -> SelfCheck:
    """Compare every batch size and tick length with the same sequences run alone; costs a second or so."""
    alone = list(chain.from_iterable(_outcome(model, [row], TICK_LENGTHS[-1]) for row in range(_ALONE)))
    together = (_outcome(model, range(size), length) for size in BATCH_SIZES for length in TICK_LENGTHS)
    same = all(ours == theirs for outcome in together for ours, theirs in zip(outcome, alone, strict=False))
    digest = hashlib.blake2b(b"".join(chain.from_iterable(alone)), digest_size=HOST_CLASS_BYTES)
    return SelfCheck(same, digest.digest())


def _outcome(model: Model, rows: Iterable[int], steps: int) -> Outcome:
    """Run the sequences `rows` together; return, for each, all that it gave, as bytes."""
    engine = Engine(model, rows=max(BATCH_SIZES))
    sequences = [_sequence(model, row) for row in rows]
    for sequence in sequences:
        engine.add(sequence)
    advances: list[StepOutput] = []
    while len(engine):
        advances += engine.step(steps, steps * _READING_WORK)
        advances += engine.collect()
    by_sequence: dict[Sequence, list[StepOutput]] = {sequence: [] for sequence in sequences}
    for advance in advances:
        by_sequence[advance.sequence].append(advance)
    return [_bytes_of(its) for its in by_sequence.values()]


def _bytes_of(advances: list[StepOutput]) -> tuple[bytes, ...]:
    written = np.concatenate([advance.written for advance in advances])
    scores = np.concatenate([advance.log_probabilities for advance in advances])
    state = advances[-1].state
    assert state is not None
    return written.tobytes(), scores.tobytes(), state.h.tobytes(), state.c.tobytes()


def _sequence(model: Model, row: int) -> Sequence:
    """Return a sequence that reads and writes, of its own length and settings, the same for every call."""
    generator = np.random.default_rng(row)
    known = "".join(model.vocabulary.characters[1:]).replace(model.manifest.begin, "") or model.manifest.begin
    text = "".join(known[i] for i in generator.integers(len(known), size=_READ + row % 7))
    ids = model.vocabulary.encode(text)
    state = State.after_first(int(ids[0]), model.state_shape, seed=row)
    sampling = (Sampling(), Sampling(0.7), Sampling(1.2, 5), Sampling(0.9, 0, 0.8), Sampling(0.0))[row % 5]
    return Sequence(state, ids[1:], _WRITTEN + row % 5, sampling, score_prefill=True, score_decode=True)
