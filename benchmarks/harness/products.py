"""The matrix products that a figure is set against: what a symbol needs, and a large one to measure a device by."""

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from segue_export.manifest import Manifest

GATES: Final = {"lstm": 4, "gru": 3, "rnn": 1}


def products(manifest: Manifest) -> int:
    """Return the floating-point operations of a symbol that cannot be avoided."""
    squares = 2 * manifest.layers - 1  # the first layer's input is a table
    hidden = manifest.hidden
    return 2 * (GATES[manifest.architecture] * hidden**2 * squares + hidden * len(manifest.vocabulary))


def square_product(right: NDArray[np.floating]) -> bytes:
    """Return a graph that multiplies `left`, of the shape and type of the square `right`, by `right`."""
    element = helper.np_dtype_to_tensor_dtype(right.dtype)
    declared = [helper.make_tensor_value_info(name, element, right.shape) for name in ("left", "product")]
    node = helper.make_node("MatMul", ["left", "right"], ["product"])
    graph = helper.make_graph([node], "peak", declared[:1], declared[1:], [numpy_helper.from_array(right, "right")])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()
