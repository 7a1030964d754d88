"""Cellular batching, the engine's, beside batching by request, under arrivals at random: how long a request waits.

    python benchmarks/scheduling.py [--loads 50,80,95] [--rows 64] [--requests 1000] [--json]

    cellular    a request joins at the next tick with a free row, and its row is free as soon as it ends
    by request  a batch of up to --rows waiting requests runs until its longest member ends; then the next batch.
                Rows that have ended leave the batch, so that its ticks get shorter, which favours this policy

Both policies drive the same engine with the same model, requests and ticks, in process, without gRPC. Requests arrive
as a Poisson process; each writes 16 to 1,024 characters (log-uniform). Their rate is given in percent of what cellular
batching can do while requests always wait, measured first. Latencies count from a request's arrival to the tick that
brings its first or last character. Where a policy is slower than the arrivals, its queue grows to the end of the run,
and its latencies say how long the run was: the throughput shows it.

The clock is virtual: it advances by the CPU seconds that each tick took, and leaps to the next arrival while there is
nothing to do. So light loads take no longer to measure than heavy ones, and what else runs on the machine delays
neither policy. Rounds alternate the policies on the same arrivals; medians are printed.
"""

import argparse
import math
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

import numpy as np
from harness.arrivals import percentile
from harness.served import make_model
from harness.tables import Column, Row, numbers, parser, show
from rich.console import Console
from rich.progress import Progress
from segue_export.artifact import read_artifact
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.sequence import Sequence, State, StepOutput

COLUMNS: Final = (
    Column("load", "load %", "d"),
    Column("policy", "batching"),
    Column("per_second", "characters/s", ",.0f"),
    Column("first_mean_ms", "first mean ms", ",.0f"),
    Column("first_p99_ms", "p99", ",.0f"),
    Column("last_mean_ms", "last mean ms", ",.0f"),
    Column("last_p99_ms", "p99", ",.0f"),
)
SHORTEST: Final = 16
LONGEST: Final = 1024
CELLULAR: Final = "cellular"
BY_REQUEST: Final = "by request"


@dataclass(frozen=True)
class Request:
    """One arrival."""

    arrives: float
    """Seconds on the virtual clock."""
    characters: int


class Rows:
    """The engine, as far as the two policies see it. Only this class knows its interface."""

    def __init__(self, model: Model, rows: int, steps: int) -> None:
        self._model = model
        self._engine = Engine(model, rows)
        self._steps = steps
        self._numbers: dict[Sequence, int] = {}

    def __len__(self) -> int:
        return len(self._engine)

    def add(self, number: int, characters: int) -> None:
        """Let request `number` join at the next tick."""
        state = State.after_first(1, self._model.state_shape, seed=number)
        sequence = Sequence(state, np.empty(0, dtype=np.int64), max_characters=characters, keep_state=False)
        self._numbers[sequence] = number
        self._engine.add(sequence)

    def tick(self) -> tuple[float, list[tuple[int, bool]]]:
        """Run one tick; return its CPU seconds and, for each request that began or ended, its number and which."""
        began = time.process_time()
        outputs = self._engine.step(self._steps, prefill_work=0)
        seconds = time.process_time() - began
        return seconds, [self._report(output) for output in outputs]

    def _report(self, output: StepOutput) -> tuple[int, bool]:
        return self._numbers[output.sequence], output.finish is not None


@dataclass(frozen=True)
class Latencies:
    """What one run of one policy gave: seconds from each arrival, and characters a second."""

    first: list[float]
    last: list[float]
    per_second: float

    def row(self) -> dict[str, float]:
        """Return the figures of the table."""
        return {
            "per_second": self.per_second,
            "first_mean_ms": 1e3 * mean(self.first),
            "first_p99_ms": 1e3 * percentile(sorted(self.first), 99),
            "last_mean_ms": 1e3 * mean(self.last),
            "last_p99_ms": 1e3 * percentile(sorted(self.last), 99),
        }


def run(requests: list[Request], policy: str, engine: Rows, rows: int) -> Latencies:
    """Serve all requests and return how long each took."""
    waiting, now = deque(enumerate(requests)), 0.0
    first, last = [math.nan] * len(requests), [math.nan] * len(requests)
    while waiting or len(engine):
        if not len(engine):
            now = max(now, waiting[0][1].arrives)
        # By request, none joins a batch that has begun.
        room = rows - len(engine) if policy == CELLULAR or not len(engine) else 0
        while room and waiting and waiting[0][1].arrives <= now:
            number, request = waiting.popleft()
            engine.add(number, request.characters)
            room -= 1
        seconds, reports = engine.tick()
        now += seconds
        for number, ended in reports:
            since = now - requests[number].arrives
            first[number] = since if math.isnan(first[number]) else first[number]
            last[number] = since if ended else last[number]
    return Latencies(first, last, sum(request.characters for request in requests) / (now - requests[0].arrives))


def saturation(model: Model, rows: int, steps: int, ticks: int = 400) -> float:
    """Return the characters a second of cellular batching while requests always wait."""
    engine, endless = Rows(model, rows, steps), enumerate(lengths(seed=0))
    ended, seconds = 0, 0.0
    written: dict[int, int] = {}
    for tick in range(-ticks // 4, ticks):  # the first ones fill the rows with requests of every age
        while len(engine) < rows:
            number, written_in_all = next(endless)
            written[number] = written_in_all
            engine.add(number, written_in_all)
        took, reports = engine.tick()
        if tick >= 0:
            seconds += took
            ended += sum(written[number] for number, end in reports if end)
    return ended / seconds


def lengths(seed: int) -> Iterator[int]:
    """Yield the characters of one request after another, log-uniform."""
    source = random.Random(seed)
    while True:
        yield round(math.exp(source.uniform(math.log(SHORTEST), math.log(LONGEST))))


def arrivals(number: int, rate: float, seed: int) -> list[Request]:
    """Return a Poisson process of `rate` requests a second."""
    source = random.Random(seed)
    gaps = (source.expovariate(rate) for _ in range(number))
    return [Request(now, length) for now, length in zip(accumulate(gaps), lengths(seed), strict=False)]


def mean_length() -> float:
    """Return the mean of the log-uniform lengths."""
    return (LONGEST - SHORTEST) / math.log(LONGEST / SHORTEST)


def measure(arguments: argparse.Namespace) -> tuple[list[Row], float]:
    """Run both policies by turns at each load; return the rows and the saturation."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Model(read_artifact(make_model(Path(folder), arguments.layers, arguments.hidden)))
        most = saturation(model, arguments.rows, arguments.steps)
        with Progress(console=Console(file=sys.stderr), transient=True) as progress:
            task = progress.add_task("scheduling", total=2 * arguments.repeats * len(arguments.loads))
            for seed in range(arguments.repeats):
                for load in arguments.loads:
                    requests = arrivals(arguments.requests, most / mean_length() * load / 100, seed)
                    for policy in (BY_REQUEST, CELLULAR):
                        engine = Rows(model, arguments.rows, arguments.steps)
                        latencies = run(requests, policy, engine, arguments.rows)
                        found.setdefault((load, policy), []).append(latencies.row())
                        progress.advance(task)
    return [{"load": load, "policy": policy, **_medians(rows)} for (load, policy), rows in sorted(found.items())], most


def _medians(rows: list[dict[str, float]]) -> dict[str, Any]:
    return {key: median(row[key] for row in rows) for key in rows[0]}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--loads", type=numbers, default=[50, 80, 95], help="percent of the saturation")
    options.add_argument("--rows", type=int, default=64, help="sequences in a tick")
    options.add_argument("--steps", type=int, default=16, help="characters of a tick")
    options.add_argument("--requests", type=int, default=1000)
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--repeats", type=int, default=3)
    arguments = options.parse_args()
    rows, most = measure(arguments)
    title = f"{arguments.layers} x {arguments.hidden} LSTM, {arguments.rows} rows, ticks of {arguments.steps}"
    show(title, COLUMNS, rows, as_json=arguments.json, saturation=f"{most:,.0f} characters/s")


if __name__ == "__main__":
    main()
