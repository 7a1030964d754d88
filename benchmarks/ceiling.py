"""The ceiling: what the server's writing graph costs in process, with nobody served, and how close the server comes.

    python benchmarks/ceiling.py [--layers 1] [--hidden 256] [--rows 1,8,64,256] [--streams 256] [--json]

    rows          sequences in one run
    us / step     of writing one symbol in every row, with sampling inside the graph, 16 steps a run
    of peak       the share of this core's measured matrix-product rate that goes into products which cannot be avoided:
                  4 H^2 multiply-adds a layer and symbol, the upper layers' input products, and the output layer
    portable      a step of the portable graph, one run a symbol, which samples nothing

One thread. The last table sets the CPU time of the server's process, with --streams streams over gRPC, against the
ceiling's at as many rows. All figures of a table are measured in turns in one run; medians of the repeats are printed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from harness.products import products, square_product
from harness.served import Server, make_model, segue_server
from harness.tables import Column, Row, numbers, parser, show
from segue_export.artifact import Artifact, read_artifact
from segue_export.graphs.quantization import quantize
from segue_export.graphs.step import Step
from segue_export.graphs.writing import WritingVariant, writing_graph
from segue_server.engine.runners.onnx_session import CPU, open_session
from streams import length_for, measure

STEPS = 16
SQUARE = 1024
CEILING = (
    Column("rows", "rows", ",.0f"),
    Column("float32_us", "us / step", ",.0f"),
    Column("float32_per_second", "characters/s", ",.0f"),
    Column("float32_of_peak", "of peak", ".2f"),
    Column("int8_us", "int8 us / step", ",.0f"),
    Column("int8_gain", "int8 gain", ".2f"),
    Column("portable_us", "portable us", ",.0f"),
)
SERVED = (
    Column("streams", "streams", ",.0f"),
    Column("weights", "weights"),
    Column("ceiling_cpu", "ceiling CPU s / million", ".2f"),
    Column("served_cpu", "server CPU s / million", ".2f"),
    Column("ratio", "ratio", ".3f"),
    Column("lowest", "lowest", ".3f"),
    Column("highest", "highest", ".3f"),
)

Runner = Callable[[], None]


def peak() -> Runner:
    """Return a product of two square matrices, of which one is constant."""
    value = np.random.default_rng(0).random((SQUARE, SQUARE), dtype=np.float32)
    loaded = open_session(square_product(value), CPU, 1)
    return lambda: loaded.run(None, {"left": value})


def as_int8(artifact: Artifact) -> Artifact:
    """Return the artifact with matrices in 8 bits."""
    manifest = replace(artifact.manifest, weights="int8")
    return replace(artifact, manifest=manifest, weights=quantize(artifact.weights, manifest.layers))


def writer(artifact: Artifact, rows: int) -> Runner:
    """Return a run of the writing graph: `STEPS` steps."""
    manifest, generator = artifact.manifest, np.random.default_rng(0)
    loaded = open_session(writing_graph(Step(manifest, artifact.weights), WritingVariant()), CPU, 1)
    state = np.zeros((manifest.layers, rows, manifest.hidden), dtype=np.float32)
    bias = np.zeros((1, len(manifest.vocabulary)), dtype=np.float32)
    feed: dict[str, Any] = {
        "steps": np.array(STEPS),
        "token": np.ones(rows, dtype=np.int64),
        "h": state,
        "c": state,
        "uniform": generator.random((STEPS, rows, 1), dtype=np.float32),
        "inverse_temperature": np.ones((rows, 1), dtype=np.float32),
        "bias": bias,
    }
    return lambda: loaded.run(None, feed)


def portable(artifact: Artifact, rows: int) -> Runner:
    """Return one step of the portable graph."""
    loaded, manifest = open_session(artifact.graph, CPU, 1), artifact.manifest
    state = np.zeros((manifest.layers, rows, manifest.hidden), dtype=np.float32)
    feed = {"tokens": np.ones((rows, 1), dtype=np.int64), "h": state, "c": state}
    return lambda: loaded.run(None, feed)


def seconds(run: Runner, least: float) -> float:
    """Return the median CPU time of one run, of as many as take `least` seconds together."""
    found: list[float] = []
    while sum(found) < least:
        began = time.thread_time()
        run()
        found.append(time.thread_time() - began)
    return median(found)


def ceiling(artifact: Artifact, rows: int, repeats: int, least: float) -> Row:
    """Measure one batch size."""
    runners = {
        "peak": peak(),
        "float32": writer(artifact, rows),
        "int8": writer(as_int8(artifact), rows),
        "portable": portable(artifact, rows),
    }
    rounds = [{name: seconds(run, least) for name, run in runners.items()} for _ in range(repeats)]
    rate = [2 * SQUARE**3 / each["peak"] for each in rounds]
    work = products(artifact.manifest) * rows * STEPS
    return {
        "rows": rows,
        "float32_us": 1e6 * median(each["float32"] for each in rounds) / STEPS,
        "float32_per_second": rows * STEPS / median(each["float32"] for each in rounds),
        "float32_of_peak": median(work / each["float32"] / r for each, r in zip(rounds, rate, strict=True)),
        "int8_us": 1e6 * median(each["int8"] for each in rounds) / STEPS,
        "int8_gain": median(each["float32"] / each["int8"] for each in rounds),
        "portable_us": 1e6 * median(each["portable"] for each in rounds),
        "peak_gflops": median(rate) / 1e9,
    }


def served(server: Server, artifact: Artifact, options: argparse.Namespace) -> Row:
    """Set the server's CPU time against the ceiling's, in turns."""
    run, streams = writer(artifact, options.streams), options.streams
    characters = length_for(server, streams, options.seconds)
    pairs = []
    for _ in range(options.repeats):
        alone = 1e6 * seconds(run, 1.0) / (streams * STEPS)
        pairs.append((alone, measure(server, streams, characters).cpu_per_million))
    ratios = [theirs / alone for alone, theirs in pairs]
    return {
        "streams": streams,
        "weights": artifact.manifest.weights,
        "characters": characters,
        "ceiling_cpu": median(alone for alone, _ in pairs),
        "served_cpu": median(theirs for _, theirs in pairs),
        "ratio": median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--rows", type=numbers, default=[1, 8, 64, 256])
    options.add_argument("--streams", type=int, default=256)
    options.add_argument(
        "--seconds", type=float, default=15, help="about how long each measurement of the server takes"
    )
    options.add_argument("--repeats", type=int, default=5)
    arguments = options.parse_args()
    shape = f"{arguments.layers} x {arguments.hidden} LSTM"
    with tempfile.TemporaryDirectory() as folder:
        artifact = read_artifact(make_model(Path(folder), arguments.layers, arguments.hidden))
        rows = [ceiling(artifact, rows, arguments.repeats, 0.3) for rows in arguments.rows]
        rate = f"{median(row['peak_gflops'] for row in rows):.0f} GFLOP/s"
        title = f"The writing graph, {shape}, one thread, medians of {arguments.repeats}"
        show(title, CEILING, rows, as_json=arguments.json, matrix_product_rate=rate)
        with segue_server(Path(folder)) as server:
            row = served(server, artifact, arguments)
    title = f"segue serve against the ceiling, {shape}, medians of {arguments.repeats}"
    show(title, SERVED, [row], as_json=arguments.json)


if __name__ == "__main__":
    main()
