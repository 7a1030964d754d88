"""An artifact computed as the server does, with the interface of a PyTorch model (see `evaluate.Reader`).

Shapes: L layers, B batch, T time, H hidden, V vocabulary.
"""

import numpy as np
import onnxruntime
import torch
from segue_training.models import State
from torch import Tensor

from segue_export.graphs.reading import Result, reading_graph
from segue_export.graphs.step import Step
from segue_export.manifest import Manifest, Weights


class ExportedModel:
    """Runs the server's reading graph on the CPU."""

    def __init__(
        self, manifest: Manifest, weights: Weights, threads: int | None = None, *, in_float16: bool = False
    ) -> None:
        """Build the graph; `threads`: CPU threads, None for all cores; `in_float16`: round as CUDA does."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        graph = reading_graph(Step(manifest, weights, in_float16=in_float16), ragged=False, result=Result.LOGITS)
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._state_shape = (manifest.layers, manifest.hidden)

    def __call__(self, ids_BT: Tensor, /, *state: Tensor) -> tuple[Tensor, ...]:
        """Read `ids_BT` from (h_LBH, c_LBH); return (logits_BTV, h_LBH, c_LBH)."""
        h_LBH, c_LBH = state
        feed = {
            "steps": np.array(ids_BT.shape[1]),
            "tokens": np.ascontiguousarray(ids_BT.numpy().T),
            "h": h_LBH.numpy(),
            "c": c_LBH.numpy(),
        }
        logits_TBV, h_LBH, c_LBH = map(torch.from_numpy, self._session.run(["logits", "h_out", "c_out"], feed))
        return logits_TBV.transpose(0, 1), h_LBH, c_LBH

    def zero_state(self, rows: int = 1) -> State:
        """Return the initial state of every text."""
        layers, hidden = self._state_shape
        return torch.zeros(layers, rows, hidden), torch.zeros(layers, rows, hidden)
