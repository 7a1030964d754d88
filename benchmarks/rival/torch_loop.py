"""Rival (b): PyTorch's nn.LSTM, stepped as the predict function of d2l's chapters does, one stream after another.

    cd benchmarks && python -m rival.torch_loop [--layers 1] [--hidden 256] [--streams 64] [--characters 200]

In process: no server, no messages, no client beside it. Three more things favour the rival: no gradients are recorded
(d2l's function records them), the next character is the likeliest rather than a sampled one, and of one thread and as
many as there are cores, the faster is taken.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from harness.tables import parser
from torch import nn
from torch.nn.functional import one_hot

SYMBOLS = 66
"""As many as the model that is served has."""


@dataclass(frozen=True)
class Stepped:
    """How long some characters took."""

    characters: int
    seconds: float
    cpu_seconds: float


class TorchLoop:
    """d2l's RNNLM around nn.LSTM, and its predict."""

    def __init__(self, layers: int, hidden: int) -> None:
        torch.manual_seed(0)
        self._lstm = nn.LSTM(SYMBOLS, hidden, layers).eval()
        self._output = nn.Linear(hidden, SYMBOLS)

    def step(self, streams: int, characters: int) -> Stepped:
        """Write `streams` texts, one after another; of one thread and one for each core, return the faster."""
        return min((self._timed(streams, characters, n) for n in thread_counts()), key=lambda stepped: stepped.seconds)

    def _timed(self, streams: int, characters: int, threads: int) -> Stepped:
        with torch_threads(threads):
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(streams):
                self._predict([1, 2, 3, 4], characters)
            return Stepped(streams * characters, time.perf_counter() - wall, time.process_time() - cpu)

    @torch.inference_mode()
    def _predict(self, prefix: list[int], characters: int) -> list[int]:
        state, outputs = None, [prefix[0]]
        for i in range(len(prefix) + characters - 1):
            inputs = one_hot(torch.tensor([[outputs[-1]]]), SYMBOLS).to(torch.float32)
            hiddens, state = self._lstm(inputs, state)
            if i < len(prefix) - 1:
                outputs.append(prefix[i + 1])
            else:
                outputs.append(int(self._output(hiddens).argmax(dim=2).reshape(1)))
        return outputs


def thread_counts() -> list[int]:
    """Return 1 and the number of cores."""
    return sorted({1, len(os.sched_getaffinity(0))})


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use `threads` threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main() -> None:
    """Measure and print one line."""
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--streams", type=int, default=64)
    options.add_argument("--characters", type=int, default=200, help="of each stream")
    arguments = options.parse_args()
    stepped = TorchLoop(arguments.layers, arguments.hidden).step(arguments.streams, arguments.characters)
    print(f"{stepped.characters / stepped.seconds:,.0f} characters/s")


if __name__ == "__main__":
    main()
