"""Characters a second in training: `segue train` beside the loops that one would otherwise write, in one run.

    python benchmarks/training_speed.py [--hidden 256] [--batch 32] [--time 35] [--json]

    segue     the loop of `segue train`: embedding, fused LSTM, AdamW, clipping, resets, hidden characters
    plain      one-hot vectors, nn.LSTM, nn.Linear, SGD and clipping, as d2l's "Concise Implementation"
    scratch    the loop of `segue train` on d2l's LSTM "from scratch", tensor by tensor

All train the same width on the same made-up text in the same minibatches. Repeats alternate; medians are printed.
Beside the speed is its share of what the cores can do: the floating-point operations of the matrix products that
a step needs (6 for each weight and character: 2 forward, 4 backward), by the speed of one large matrix product.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as `segue train` does

import numpy as np
import torch
from harness.machine import hardware
from rich.console import Console
from rich.table import Table
from segue_training.data.batches import epoch
from segue_training.recipes import TrainingConfig
from segue_training.train.trainer import Trainer, TrainingData
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

SYMBOLS = 66
"""As many as tinyshakespeare has, with `<unk>`."""
Loop = Callable[[int], float]
"""Takes a number of steps and returns the seconds that they took."""


class Enough(Exception):  # noqa: N818
    """Ends a run after the steps that are measured."""


@dataclass(frozen=True)
class Measured:
    """One loop."""

    name: str
    characters_per_second: float
    gigaflops: float
    share_of_peak: float


def configuration(arguments: argparse.Namespace, **changes: Any) -> TrainingConfig:
    """Return what both loops of segue train."""
    config = TrainingConfig(
        hidden=arguments.hidden,
        embedding=arguments.embedding,
        layers=1,
        steps=10**8,
        batch=arguments.batch,
        time=arguments.time,
        learning_rate=1e-3,
        evaluations=1,
    )
    return replace(config, **changes)


def segue_loop(data: TrainingData, config: TrainingConfig) -> Loop:
    """Return the loop of `segue train`."""
    run = Trainer(data, config)

    def steps(number: int) -> float:
        """Take one step more than asked for: finding back to its place in the epoch is not measured."""
        ends: list[float] = []

        def stop(_: Trainer) -> None:
            ends.append(time.perf_counter())
            if len(ends) > number:
                raise Enough

        try:
            run.train(lambda _: None, stop)
        except Enough:
            return ends[-1] - ends[0]
        raise AssertionError("a run of 10^8 steps has ended")

    return steps


class PlainLstm(nn.Module):
    """d2l's RNNModel around nn.LSTM."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(SYMBOLS, hidden)
        self.linear = nn.Linear(hidden, SYMBOLS)

    def forward(self, ids_BT: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Return logits [T * B, V] and the state."""
        x_TBV = one_hot(ids_BT.T, SYMBOLS).to(torch.float32)
        y_TBH, state = self.rnn(x_TBV, state)
        return self.linear(y_TBH.reshape(-1, y_TBH.shape[-1])), state


def plain_loop(data: TrainingData, config: TrainingConfig) -> Loop:
    """Return the loop that one would write."""
    model = PlainLstm(config.hidden)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    minibatches = [m for m in epoch(data.training, config, 0, 0) if m.ids_BT.shape[1] == config.time]
    state: Any = None

    def step(number: int) -> None:
        nonlocal state
        minibatch = minibatches[number % len(minibatches)]
        if state is not None:
            state = tuple(part.detach() for part in state)
        logits, state = model(minibatch.ids_BT, state)
        loss = cross_entropy(logits, minibatch.targets_BT.T.reshape(-1))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def steps(number: int) -> float:
        began = time.perf_counter()
        for k in range(number):
            step(k)
        return time.perf_counter() - began

    return steps


def peak(size: int = 1024, repeats: int = 20) -> float:
    """Return the gigaflops of a large matrix product, the best of several."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9


def weights(inputs: int, hidden: int) -> int:
    """Return the weights of the matrix products of one character."""
    return 4 * hidden * (inputs + hidden) + hidden * SYMBOLS


def measure(arguments: argparse.Namespace) -> tuple[list[Measured], float]:
    """Measure each loop by turns; return them and the cores' peak in gigaflops."""
    ids = np.random.default_rng(0).integers(1, SYMBOLS, 400_000).astype(np.uint8)
    data = TrainingData(ids, ids[:2000], SYMBOLS, 1)
    config = configuration(arguments)
    loops: dict[str, tuple[Loop, int]] = {
        "segue": (segue_loop(data, config), weights(config.embedding, config.hidden)),
        "plain nn.LSTM": (plain_loop(data, config), weights(SYMBOLS, config.hidden)),
        "scratch": (
            segue_loop(data, replace(config, implementation="scratch")),
            weights(config.embedding, config.hidden),
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    peaks = []
    for repeat in range(arguments.repeats + 1):
        peaks.append(peak())
        for name, (loop, _) in loops.items():
            taken = loop(arguments.steps)
            if repeat > 0:  # the first one warms up
                seconds[name].append(taken)
    characters, top = arguments.steps * config.batch * config.time, median(peaks)
    measured = []
    for name, (_, each) in loops.items():
        rate = characters / median(seconds[name])
        measured.append(Measured(name, rate, 6 * each * rate / 1e9, 6 * each * rate / 1e9 / top))
    return measured, top


def show(measured: list[Measured], top: float, arguments: argparse.Namespace) -> None:
    """Print a table."""
    plain = next(m.characters_per_second for m in measured if m.name.startswith("plain"))
    table = Table("loop", "characters/s", "beside plain", "GFLOP/s", "share of peak")
    for column in table.columns[1:]:
        column.justify = "right"
    for m in measured:
        ratio = m.characters_per_second / plain
        table.add_row(
            m.name, f"{m.characters_per_second:,.0f}", f"{ratio:.2f}", f"{m.gigaflops:.1f}", f"{m.share_of_peak:.0%}"
        )
    shape = f"1 x {arguments.hidden}, batch {arguments.batch}, {arguments.time} steps"
    console = Console()
    console.print(table)
    console.print(f"{shape}; {torch.get_num_threads()} threads; {hardware()}; peak {top:.0f} GFLOP/s")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--embedding", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--time", type=int, default=35)
    parser.add_argument("--steps", type=int, default=40, help="of one repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    measured, top = measure(arguments)
    if arguments.json:
        print(json.dumps({"hardware": hardware(), "peak": top, "loops": [vars(m) for m in measured]}))
    else:
        show(measured, top, arguments)


if __name__ == "__main__":
    main()
