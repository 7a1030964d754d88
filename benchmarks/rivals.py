"""The server beside three ways to serve the same LSTM, in one run: how many characters a second each writes.

    python benchmarks/rivals.py [--streams 1,16,64] [--layers 1] [--hidden 256] [--triton FOLDER] [--json]

    segue     `segue serve` over gRPC
    grpc.aio   (a) a gRPC server of an afternoon: one ONNX Runtime run and one message for each character of each stream
    nn.LSTM    (b) PyTorch in process, one stream after another, as d2l's predict; no server at all
    Triton     (c) NVIDIA Triton's sequence batching with the Python backend, where --triton names a folder that
               `python -m rival.triton_server FOLDER` has set up

All run the same shape on the same cores, ONNX Runtime with one thread each; the clients share these cores with the
servers, each a separate process. Repeats alternate; medians are printed. `ratio` is segue's characters/s by the
rival's, the median of the pairs of one round.

How to read it. (a) and (c) bring every character by itself, segue brings what a tick has written: where a reader needs
each character as soon as it is there, look at the gap between messages too. (a) could be made faster by what segue
does: batching, and several characters in a message. (b) is what a notebook does; it has no messages to pay for. (c) is
Triton as far as it runs without a container: its ONNX Runtime backend in C++, which that package lacks, was not
measured. Triton's client samples nothing either, but has to send each character back to get the next.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from harness.served import Server, make_model, segue_server, serving
from harness.tables import Column, Row, numbers, parser, show
from rich.console import Console
from rich.progress import Progress
from rival.torch_loop import TorchLoop, thread_counts
from rival.triton_server import Installation, triton_server
from segue_export.artifact import MODEL_FILE
from streams import SHORTEST, length_for, measure

COLUMNS: Final = (
    Column("streams", "streams", ",d"),
    Column("name", "served by"),
    Column("per_second", "characters/s", ",.0f"),
    Column("ratio", "ratio", ",.1f"),
    Column("cpu_per_million", "CPU s / million", ",.1f"),
    Column("first_p50_ms", "first p50 ms", ",.1f"),
    Column("gap_p50_ms", "gap p50 ms", ",.2f"),
    Column("gap_p99_ms", "p99", ",.2f"),
    Column("characters_per_message", "a message", ",.1f"),
)
TRIAL_CHARACTERS: Final = 500
OURS: Final = "segue"

Contender = Callable[[int, float], Row]
"""Takes a number of streams and about how many seconds to write; returns what was measured."""


@contextmanager
def contenders(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Contender]]:
    """Start all servers; those that are not asked cost nothing."""
    models = folder / "models"
    graph = make_model(models, arguments.layers, arguments.hidden) / MODEL_FILE
    naive = [sys.executable, str(Path(__file__).parent / "rival" / "grpc_aio.py"), str(graph)]
    with ExitStack() as stack:
        found: dict[str, Contender] = {
            OURS: over_grpc(stack.enter_context(segue_server(models))),
            "(a) grpc.aio": over_grpc(stack.enter_context(serving(naive))),
            "(b) nn.LSTM": in_process(TorchLoop(arguments.layers, arguments.hidden)),
        }
        if arguments.triton is not None:
            installation = Installation(arguments.triton.resolve())
            server = stack.enter_context(triton_server(installation, graph))
            found["(c) Triton"] = over_grpc(server, tuple(installation.load_generator))
        yield found


def over_grpc(server: Server, generator: tuple[str, ...] = ()) -> Contender:
    """Return the measurement of a server by a load generator."""
    lengths: dict[int, int] = {}

    def run(streams: int, seconds: float) -> Row:
        if streams not in lengths:
            lengths[streams] = length_for(server, streams, seconds, generator)
        measured = measure(server, streams, lengths[streams], generator)
        load = measured.load
        if load.failed:
            raise SystemExit(f"{load.failed} of {streams} streams failed")
        return {
            "per_second": load.per_second,
            "cpu_per_million": measured.cpu_per_million,
            "first_p50_ms": 1e3 * load.first_p50,
            "gap_p50_ms": None if load.gap_p50 is None else 1e3 * load.gap_p50,
            "gap_p99_ms": None if load.gap_p99 is None else 1e3 * load.gap_p99,
            "characters_per_message": load.characters / load.messages,
        }

    return run


def in_process(loop: TorchLoop) -> Contender:
    """Return the measurement of a loop in this process. Streams come one after another: no gap compares."""
    lengths: dict[int, int] = {}

    def run(streams: int, seconds: float) -> Row:
        if streams not in lengths:
            trial = loop.step(1, TRIAL_CHARACTERS)
            each = trial.seconds / trial.characters * streams * len(thread_counts())
            lengths[streams] = max(SHORTEST, int(seconds / each))
        characters = lengths[streams]
        stepped = loop.step(streams, characters)
        return {
            "per_second": stepped.characters / stepped.seconds,
            "cpu_per_million": 1e6 * stepped.cpu_seconds / stepped.characters,
        }

    return run


@dataclass(frozen=True)
class Rounds:
    """What the rounds of one number of streams gave, by contender."""

    streams: int
    rows: dict[str, list[Row]]

    def summary(self) -> list[Row]:
        """Return a row of medians for each contender."""
        return [{"streams": self.streams, "name": name, **self._medians(name)} for name in self.rows]

    def _medians(self, name: str) -> dict[str, Any]:
        mine, ours = self.rows[name], self.rows[OURS]
        figures = {key: median(found) for key in mine[0] if (found := [r[key] for r in mine if r[key] is not None])}
        ratios = [our["per_second"] / my["per_second"] for our, my in zip(ours, mine, strict=True)]
        return {**figures, "ratio": None if name == OURS else median(ratios)}


def measure_all(arguments: argparse.Namespace) -> list[Row]:
    """Ask all contenders by turns."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contenders(Path(folder), arguments) as found,
        Progress(console=Console(file=sys.stderr), transient=True) as progress,
    ):
        task = progress.add_task("measuring", total=len(arguments.streams) * arguments.repeats * len(found))
        rounds = [Rounds(streams, {name: [] for name in found}) for streams in arguments.streams]
        for _ in range(arguments.repeats):
            for point in rounds:
                for name, run in found.items():
                    point.rows[name].append(run(point.streams, arguments.seconds))
                    progress.advance(task)
    return [row for point in rounds for row in point.summary()]


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--streams", type=numbers, default=[1, 16, 64])
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--seconds", type=float, default=2, help="about how long each measurement takes")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument(
        "--triton",
        type=Path,
        default=os.environ.get("SEGUE_BENCH_TRITON"),
        help="the folder that rival.triton_server has set up [default: the environment's SEGUE_BENCH_TRITON]",
    )
    arguments = options.parse_args()
    arguments.triton = arguments.triton and Path(arguments.triton)
    facts = {}
    if arguments.triton is None or not Installation(arguments.triton).complete:
        facts["triton"] = "not measured: cd benchmarks; python -m rival.triton_server FOLDER; then say --triton FOLDER"
        arguments.triton = None
    title = f"{arguments.layers} x {arguments.hidden} LSTM, medians of {arguments.repeats}"
    show(title, COLUMNS, measure_all(arguments), as_json=arguments.json, **facts)


if __name__ == "__main__":
    main()
