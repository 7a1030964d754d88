"""What multiplying in float16 costs: whether a server may do so by default on a GPU."""

import math
from dataclasses import replace
from typing import Final

from segue_training.evaluation.evaluate import nats_in_rows
from segue_training.text.vocabulary import Ids

from segue_export.checks.exported_model import ExportedModel
from segue_export.graphs.quantization import halve
from segue_export.manifest import Manifest, Weights

MOST_SYMBOLS: Final = 16_384
"""Of the text: both models read the same symbols, so that few say enough."""
_ROWS: Final = 64
"""Parts of the text that are read side by side, each from the zero state."""


def float16_rise(manifest: Manifest, weights: Weights, ids_N: Ids) -> float | None:
    """Return by what share the perplexity on `ids_N` rises if float32 weights are multiplied in float16.

    Products are rounded as CUDA rounds them. None for a text of fewer than two symbols a row, or results that are no
    numbers.
    """
    ids_N = ids_N[:MOST_SYMBOLS]
    if len(ids_N) <= 2 * _ROWS:
        return None
    exact = ExportedModel(manifest, weights)
    halved = ExportedModel(replace(manifest, weights="float16"), halve(weights, manifest.layers), in_float16=True)
    before, after = (nats_in_rows(model, ids_N, _ROWS) for model in (exact, halved))
    rise = math.expm1(after - before)
    return rise if math.isfinite(rise) else None
