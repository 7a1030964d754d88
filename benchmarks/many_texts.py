"""Many texts of mixed length in one call of Score: the CPU time of the server's process beside that of the bare graph.

    python benchmarks/many_texts.py [--texts 2000] [--layers 1] [--hidden 256] [--repeats 5] [--json]

The lengths are 1 to 2,000 characters, log-uniform, so that most texts are short. The bare graph is the one that the
server reads with, run here on the same texts, sorted by length and padded, 128 at once: what one would write
by hand. It receives, checks, normalizes and sends nothing. `ratio` is the server's CPU time by the graph's, the median
of the pairs; both read on one thread. Their sums are compared before anything is measured.
"""

import argparse
import math
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

import grpc
import numpy as np
from harness.machine import cpu_seconds
from harness.served import TEXT_CHARACTERS, make_model, segue_server
from harness.tables import Column, Row, parser, show
from segue.v1 import scoring_pb2, scoring_pb2_grpc
from segue_export.artifact import find_artifacts, read_artifact
from segue_server.engine.model import Model
from segue_server.engine.runners.runner import Reading

COLUMNS: Final = (
    Column("name", "scored by"),
    Column("texts", "texts", ",d"),
    Column("characters", "characters", ",d"),
    Column("cpu_per_million", "CPU s / million", ",.2f"),
    Column("ratio", "ratio", ",.2f"),
)
LONGEST: Final = 2000
ROWS: Final = 128
TOLERANCE: Final = 1e-5
"""Of the two sums, relative: the server's are rounded to 2^-24 nats."""

Measured = tuple[float, float]
"""CPU seconds, and the sum in nats."""


def random_texts(number: int) -> list[str]:
    """Make texts up: what they say does not matter to a model of random weights."""
    source = random.Random(0)
    lengths = [round(math.exp(source.uniform(0, math.log(LONGEST)))) for _ in range(number)]
    return ["".join(source.choices(TEXT_CHARACTERS, k=length)) for length in lengths]


def read_bare(model: Model, texts: list[str]) -> Measured:
    """Score the texts with nothing around the graph."""
    began, nats = time.process_time(), 0.0
    encoded = sorted((model.vocabulary.encode(text) for text in texts), key=len)
    for start in range(0, len(encoded), ROWS):
        rows = [ids for ids in encoded[start : start + ROWS] if len(ids) > 1]
        if rows:
            nats += _read_rows(model, rows)
    return time.process_time() - began, nats


def _read_rows(model: Model, rows: list[np.ndarray]) -> float:
    length_B = np.array([len(ids) - 1 for ids in rows])
    ids_TB = np.zeros((length_B.max() + 1, len(rows)), dtype=np.int64)
    for row, ids in enumerate(rows):
        ids_TB[: len(ids), row] = ids
    layers, hidden = model.state_shape
    zeros = np.zeros((layers, len(rows), hidden), dtype=np.float32)
    result = model.read(model.scatter(zeros, zeros), Reading(ids_TB[:-1], ids_TB[1:], length_B))
    scores_TB = result.log_probabilities_TB
    return math.fsum(float(scores_TB[:length, row].sum()) for row, length in enumerate(length_B))


def ask(stub: scoring_pb2_grpc.ScoringServiceStub, texts: list[str], process_id: int) -> Measured:
    """Score the texts over gRPC; count the server's time alone."""
    began = cpu_seconds(process_id)
    response = stub.Score(scoring_pb2.ScoreRequest(texts=texts))
    nats = math.fsum(score.sum_log_probability for score in response.scores)
    return cpu_seconds(process_id) - began, nats


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Score by turns."""
    texts = random_texts(arguments.texts)
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), arguments.layers, arguments.hidden)
        model = Model(read_artifact(next(iter(find_artifacts(Path(folder))))))
        with segue_server(Path(folder)) as server, grpc.insecure_channel(server.address) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            who: dict[str, Callable[[], Measured]] = {
                "server": lambda: ask(stub, texts, server.process_id),
                "bare graph": lambda: read_bare(model, texts),
            }
            _check({name: score() for name, score in who.items()})  # warms up, too
            rounds = [{name: score() for name, score in who.items()} for _ in range(arguments.repeats)]
    return [_row(name, texts, rounds) for name in who]


def _check(measured: dict[str, Measured]) -> None:
    ours, theirs = measured["server"][1], measured["bare graph"][1]
    if not math.isclose(ours, theirs, rel_tol=TOLERANCE):
        raise SystemExit(f"the server's sum is {ours:.3f} nats, the graph's {theirs:.3f}")


def _row(name: str, texts: list[str], rounds: list[dict[str, Measured]]) -> Row:
    characters = sum(map(len, texts))
    ratios = [each["server"][0] / each["bare graph"][0] for each in rounds]
    return {
        "name": name,
        "texts": len(texts),
        "characters": characters,
        "cpu_per_million": 1e6 * median(each[name][0] for each in rounds) / characters,
        "ratio": median(ratios) if name == "server" else None,
    }


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--texts", type=int, default=2000, help="how many, up to 4,096")
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--repeats", type=int, default=5)
    arguments = options.parse_args()
    title = f"many texts, {arguments.layers} x {arguments.hidden} LSTM, medians of {arguments.repeats}"
    show(title, COLUMNS, measure(arguments), as_json=arguments.json)


if __name__ == "__main__":
    main()
