"""Whether a device computes what the CPU does, up to rounding.

A graph that runs on a device has kernels, copies and recorded runs between itself and its result, and most of what can
go wrong there gives another text, not an error. So a few texts that the device reads and writes when the server starts
are scored by the CPU as well.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from segue_server.engine.model import Model
from segue_server.engine.runners.settings import Precision
from segue_server.engine.sequence import Sequence, State
from segue_server.errors import StartupError
from segue_server.runtime.self_check import check_sequences, run_together

MOST_DIFFERENT: Final = {Precision.FLOAT32: 0.01, Precision.TF32: 0.25, Precision.FLOAT16: 0.25}
"""Nats by which a log-probability may differ. Rounding explains a small part; what is mixed up gives some nats."""
_ROWS: Final = 16
_STEPS: Final = 32


def check_device(model: Model, on_cpu: Model) -> float:
    """Return by how much log-probabilities differ at most, in nats. Raises StartupError if rounding cannot explain it.

    `on_cpu` is the same artifact on the CPU.
    """
    sequences = check_sequences(model, _ROWS)
    texts = [sequence.prefill_ids for sequence in sequences]
    starts = [sequence.state for sequence in sequences]
    outcomes = _run(model, sequences)
    whole = [np.concatenate([text, written]) for text, (written, _) in zip(texts, outcomes, strict=True)]
    again = _run(on_cpu, [_reading(start, text) for start, text in zip(starts, whole, strict=True)])
    differences = [np.abs(ours - theirs).max() for (_, ours), (_, theirs) in zip(outcomes, again, strict=True)]
    difference = float(np.max(differences))
    precision = model.precision or Precision.FLOAT32
    if not difference <= MOST_DIFFERENT[precision]:  # `not` also refuses NaN
        raise StartupError(
            f"model {model.name} version {model.version}: {model.provider} in {precision} gives log-probabilities that "
            f"differ from the CPU's by {difference:.3g} nats, and rounding explains {MOST_DIFFERENT[precision]:g} at "
            "most; serve it with --device cpu, and run make gpu-check"
        )
    return difference


def _reading(start: State, text: NDArray[np.int64]) -> Sequence:
    return Sequence(start, text, score_prefill=True, keep_state=False)


def _run(model: Model, sequences: list[Sequence]) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return what each sequence wrote, and all its log-probabilities by symbol or character."""
    return [
        (
            np.concatenate([output.written for output in outputs]),
            np.concatenate([output.log_probabilities for output in outputs]),
        )
        for outputs in run_together(model, sequences, _STEPS)
    ]
