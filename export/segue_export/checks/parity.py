"""Parity of the ONNX graph with torch: logits and state, over a grid of batch and time sizes.

The reference is torch in float64. A recurrent model may amplify rounding from step to step, so that no two float32
programs agree after hundreds of characters. The graph may therefore differ from the reference as much as torch's own
float32, plus a margin.
"""

import copy
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from segue_training.models import LanguageModel

from segue_export.errors import ParityError
from segue_export.manifest import Manifest

BATCH_SIZES: Final = (1, 2, 7)
TIME_SIZES: Final = (1, 2, 33, 300)

MOST_LOGITS: Final = 2**23
"""Of one comparison: with a large vocabulary, the largest batches are left out."""

TOLERANCE: Final = 1e-4
"""Allowed difference, absolute up to 1 and relative above, if torch's rounding is negligible. A correct graph is near
1e-6; a wrong gate, bias or layer exceeds 0.1."""

ROUNDING_MARGIN: Final = 10.0
"""Multiple of torch's own float32 rounding that is allowed in addition."""

Outputs = list[NDArray[np.floating]]


@dataclass(frozen=True)
class Parity:
    """The largest differences over the grid, both from torch in float64."""

    graph: float
    torch: float


def check_parity(graph: bytes, manifest: Manifest, model: LanguageModel) -> Parity:
    """Compare over the grid. Raises ParityError if the graph differs by more than rounding."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    reference = copy.deepcopy(model).double()
    generator = np.random.default_rng(0)
    worst = Parity(0.0, 0.0)
    for batch, time in product(BATCH_SIZES, TIME_SIZES):
        if batch * time * len(manifest.vocabulary) > MOST_LOGITS:
            continue
        tokens = generator.integers(len(manifest.vocabulary), size=(batch, time))
        state_shape = (2, manifest.layers, batch, manifest.hidden)
        h, c = generator.uniform(-1, 1, state_shape).astype(np.float32)
        truth = _run_torch(reference, tokens, h.astype(np.float64), c.astype(np.float64))
        found = session.run(["logits", "h_out", "c_out"], {"tokens": tokens, "h": h, "c": c})
        here = Parity(_difference(found, truth), _difference(_run_torch(model, tokens, h, c), truth))
        if not here.graph <= TOLERANCE + ROUNDING_MARGIN * here.torch:  # `not` also refuses NaN
            raise ParityError(
                f"the ONNX graph differs from torch by {here.graph:.3g} at batch {batch}, time {time} "
                f"(torch's own rounding: {here.torch:.3g}); nothing was written. "
                "Check the weights with `segue evaluate`, and report this with your versions of torch and onnxruntime"
            )
        worst = Parity(max(worst.graph, here.graph), max(worst.torch, here.torch))
    return worst


def _run_torch(
    model: LanguageModel, tokens: NDArray[np.int64], h: NDArray[np.floating], c: NDArray[np.floating]
) -> Outputs:
    """Return (logits, h_out, c_out); c_out is c for a model without a memory cell, as in the graph."""
    state = (h, c)[: len(model.zero_state())]
    with torch.inference_mode():
        outputs = [output.numpy() for output in model(*map(torch.from_numpy, (tokens, *state)))]
    return outputs if len(state) == len((h, c)) else [*outputs, c]


def _difference(found: Outputs, truth: Outputs) -> float:
    return max(
        float(np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))))
        for ours, theirs in zip(found, truth, strict=True)
    )
