"""Weights in 8 or 16 bits, and how the server multiplies with them.

    h = (a - 64) / 63             a unsigned, 1 to 127: |h| is at most 1 in every architecture
    W[n, :] = scale[n] w[n, :]    w signed 8 bits, one scale for each row, that is for each column of the product

A scale measured on a batch, as in dynamic quantization, would make a row's result depend on the other rows. The sums
of a * w are exact integers, whatever the order of adding; a has 7 bits because processors without VNNI add two
products a * w in 16 bits. The input's table, the biases and everything between the products stay float32.

In float16, meant for CUDA, the matrices, h and the results of the products are rounded to 16 bits. The CPU has no
float16 product: there only the matrices are rounded.
"""

# Shape suffixes: G gates, H hidden, K inner dimension, N rows of a weight (columns of its product).

from typing import Final

import numpy as np
from numpy.typing import NDArray

from segue_export.manifest import Weights

ACTIVATION_ZERO: Final = 64
ACTIVATION_SCALE: Final = 1 / 63
WEIGHT_LEVELS: Final = 127
OUTPUT_SCALE: Final = "output.scale"


def layer_scale(k: int) -> str:
    """Return the name of the scales [GH] of layer k's matrices."""
    return f"recurrent.scale_l{k}"


def _matrices(layers: int) -> list[tuple[str, list[str]]]:
    """Return (name of the scales, names of the matrices that share them): those of a layer form one product.

    Layer 0's input matrix is not rounded: it becomes a table.
    """
    by_layer = [
        (layer_scale(k), [f"recurrent.{part}_l{k}" for part in (("weight_ih",) if k else ()) + ("weight_hh",)])
        for k in range(layers)
    ]
    return [*by_layer, (OUTPUT_SCALE, ["output.weight"])]


def quantize(weights: Weights, layers: int) -> Weights:
    """Return `weights` with matrices in int8, and their scales."""
    quantized = dict(weights)
    for scales, names in _matrices(layers):
        quantized[scales] = _row_scales(np.concatenate([weights[name] for name in names], axis=1))
        quantized |= {name: _rounded(weights[name], quantized[scales]) for name in names}
    return quantized


def halve(weights: Weights, layers: int) -> Weights:
    """Return `weights` with the same matrices in float16; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return {
            **weights,
            **{name: weights[name].astype(np.float16) for _, names in _matrices(layers) for name in names},
        }


def dequantize(weights: Weights, layers: int) -> Weights:
    """Return the float32 values of rounded weights, without the scales."""
    restored = {name: value.astype(np.float32) for name, value in weights.items()}
    for scales, names in _matrices(layers):
        scale_N = restored.pop(scales, None)
        if scale_N is not None:
            restored |= {name: restored[name] * scale_N[:, np.newaxis] for name in names}
    return restored


def _row_scales(matrix_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scale of each row, by which its largest value is the last level; bounded below for tiny rows."""
    largest_N = np.abs(matrix_NK).max(axis=1)
    floor = max(float(largest_N.max()) * 1e-3, 1e-6)
    scale_N: NDArray[np.float32] = (np.maximum(largest_N, floor) / WEIGHT_LEVELS).astype(np.float32)
    return scale_N


def _rounded(matrix_NK: NDArray[np.float32], scale_N: NDArray[np.float32]) -> NDArray[np.int8]:
    levels_NK = np.rint(matrix_NK / scale_N[:, np.newaxis])
    rounded_NK: NDArray[np.int8] = np.clip(levels_NK, -WEIGHT_LEVELS, WEIGHT_LEVELS).astype(np.int8)
    return rounded_NK
