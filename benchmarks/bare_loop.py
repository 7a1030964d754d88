"""The bare ONNX Runtime loop: what the portable graph costs where nobody is served.

    python benchmarks/bare_loop.py [--layers 1] [--hidden 256] [--rows 64] [--steps 2000]

One process, one thread, as many rows as there are streams, one character a run. It feeds back the likeliest character
of each row and samples nothing.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from charlm_export.artifact import MODEL_FILE
from machine import hardware
from served import make_model
from tables import parser


@dataclass(frozen=True)
class Rate:
    """One measurement."""

    characters: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Characters a second of wall-clock."""
        return self.characters / self.seconds

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds for a million characters."""
        return 1e6 * self.cpu_seconds / self.characters


class BareLoop:
    """A session of the portable graph, with nothing around it."""

    def __init__(self, graph: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        shape = next(value.shape for value in self._session.get_inputs() if value.name == "h")
        self._layers, self._hidden = shape[0], shape[2]

    def run(self, rows: int, steps: int) -> Rate:
        """Step `rows` rows together."""
        tokens: Any = np.ones((rows, 1), dtype=np.int64)
        h = c = np.zeros((self._layers, rows, self._hidden), dtype=np.float32)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            logits, h, c = self._session.run(["logits", "h_out", "c_out"], {"tokens": tokens, "h": h, "c": c})
            tokens = logits[:, 0].argmax(axis=1)[:, np.newaxis]
        return Rate(rows * steps, time.perf_counter() - wall, time.process_time() - cpu)


def main() -> None:
    """Measure once and print one line."""
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--rows", type=int, default=64)
    options.add_argument("--steps", type=int, default=2000)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loop = BareLoop(make_model(Path(folder), arguments.layers, arguments.hidden) / MODEL_FILE)
    loop.run(arguments.rows, 20)
    rate = loop.run(arguments.rows, arguments.steps)
    print(f"{rate.per_second:,.0f} characters/s, {rate.cpu_per_million:.1f} CPU s per million; {hardware()}")


if __name__ == "__main__":
    main()
