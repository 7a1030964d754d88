"""What Triton's Python backend runs as rival (c): `model.py` of a model repository, beside `model.onnx`.

Each request brings the last character of a sequence and gets the next one, sampled. Triton hands over the requests of
several sequences at once; they share one run, which is the best that this backend can do. A state lives in a dict by
the sequence's identifier. One thread for ONNX Runtime, as in segue's server.
"""

import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = os.environ["PYTHONPATH"].split(":")  # Triton's stub ignores it

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import triton_python_backend_utils as triton  # type: ignore[import-not-found]  # noqa: E402 - the stub's own module


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph."""
        del args
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        graph = Path(__file__).with_name("model.onnx")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        h = next(value for value in self._session.get_inputs() if value.name == "h")
        self._zeros = np.zeros((h.shape[0], h.shape[2]), dtype=np.float32)
        self._states: dict[int, tuple[Any, Any]] = {}
        self._random = np.random.default_rng(0)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Step every sequence that has a request, together."""
        inputs = {
            name: [triton.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in ("TOKEN", "START", "CORRID")
        }
        sequences = [int(part.flat[0]) for part in inputs["CORRID"]]
        for sequence, start in zip(sequences, inputs["START"], strict=True):
            if start.flat[0]:
                self._states[sequence] = (self._zeros, self._zeros)
        h = np.stack([self._states[sequence][0] for sequence in sequences], axis=1)
        c = np.stack([self._states[sequence][1] for sequence in sequences], axis=1)
        tokens = np.array([[int(part.flat[0])] for part in inputs["TOKEN"]])
        logits, h, c = self._session.run(["logits", "h_out", "c_out"], {"tokens": tokens, "h": h, "c": c})
        chosen = self._sample(logits[:, 0])
        for row, sequence in enumerate(sequences):
            self._states[sequence] = (h[:, row], c[:, row])
        return [triton.InferenceResponse([triton.Tensor("NEXT", token.reshape(1, 1))]) for token in chosen]

    def _sample(self, logits: Any) -> Any:
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights[:, 0] = 0  # never <unk>
        cumulative = weights.cumsum(axis=1)
        drawn = self._random.random((len(logits), 1)) * cumulative[:, -1:]
        return (cumulative < drawn).sum(axis=1)
