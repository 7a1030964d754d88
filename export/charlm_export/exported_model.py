"""An artifact's graph on ONNX Runtime, read as a PyTorch model is (see `charlm_training.evaluate.Reader`)."""

# Shape suffixes: L layers, B batch, T time, H hidden, V vocabulary.

import onnxruntime
import torch
from charlm_training.models import State
from torch import Tensor

from charlm_export.artifact import Artifact


class ExportedModel:
    """Predicts what the graph predicts, on the CPU."""

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        """Load the graph; `threads` is how many cores it may use, None for all."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._session = onnxruntime.InferenceSession(artifact.graph, options, providers=["CPUExecutionProvider"])
        self._state_shape = (artifact.manifest.layers, artifact.manifest.hidden)

    def __call__(self, ids_BT: Tensor, /, *state: Tensor) -> tuple[Tensor, ...]:
        """Read `ids_BT` on from (h_LBH, c_LBH); return (logits_BTV, h_LBH, c_LBH)."""
        h_LBH, c_LBH = state
        feed = {"tokens": ids_BT.numpy(), "h": h_LBH.numpy(), "c": c_LBH.numpy()}
        return tuple(map(torch.from_numpy, self._session.run(["logits", "h_out", "c_out"], feed)))

    def zero_state(self, rows: int = 1) -> State:
        """Return the state in which every text begins."""
        layers, hidden = self._state_shape
        return torch.zeros(layers, rows, hidden), torch.zeros(layers, rows, hidden)
