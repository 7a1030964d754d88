"""What an alphabet of many characters costs a server: to start, in memory, and for each character.

    python benchmarks/large_alphabet.py [--sizes 100,20000] [--layers 1] [--hidden 32] [--json]

    start     from the command to `ready`, and the CPU time of it
    memory    the server's, at most, after all the calls below
    us        CPU microseconds of the server for each character: written by 64 streams (plain, top_k 10, top_p 0.9),
              read in texts (plain, and with ranks and 5 alternatives)

The weights are random but for the output's bias, which makes the alphabet as uneven as words are (Zipf's law): what a
filter keeps depends on it.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from harness.machine import cpu_seconds, watched_memory
from harness.served import make_manifest, make_module, segue_server
from harness.tables import Column, numbers, parser, show
from segue.v1 import generation_pb2 as pb
from segue.v1 import generation_pb2_grpc, scoring_pb2, scoring_pb2_grpc
from segue_export.artifact import write_artifact
from segue_export.graphs.portable import portable_graph

COLUMNS: Final = (
    Column("size", "characters", ",d"),
    Column("start_s", "start s", ".1f"),
    Column("start_cpu_s", "start CPU s", ".1f"),
    Column("memory_mib", "memory MiB", ",.0f"),
    Column("plain_us", "written us", ",.0f"),
    Column("top_k_us", "top_k us", ",.0f"),
    Column("top_p_us", "top_p us", ",.0f"),
    Column("read_us", "read us", ",.0f"),
    Column("detail_us", "in detail us", ",.0f"),
)
STREAMS: Final = 64
WRITTEN: Final = 100
"""Characters of each stream."""
READ: Final = 20_000


def alphabet(size: int) -> str:
    """Return the line feed and `size` - 2 further characters; `<unk>` is one more."""
    return "\n" + "".join(chr(0x4E00 + i) for i in range(size - 2))


def write_model(models: Path, layers: int, hidden: int, size: int) -> None:
    """Write a model of `size` symbols, the more frequent the lower their ids."""
    characters = alphabet(size)
    manifest = make_manifest("lstm", layers, hidden, characters)
    module = make_module(layers, hidden, characters)
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    weights["output.bias"] = -np.log(np.arange(1, size + 1)).astype(np.float32)
    write_artifact(models, "benchmark", manifest, portable_graph(manifest, weights))


def microseconds(process_id: int, characters: int, call: Callable[[], object]) -> float:
    """Return what `call` costs the server for each of `characters`."""
    call()  # loads what is rarely used
    before = cpu_seconds(process_id)
    call()
    return 1e6 * (cpu_seconds(process_id) - before) / characters


def calls(channel: grpc.Channel, size: int) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Yield what is measured: its name, its characters, and a function that does it once."""
    generation, scoring = (
        generation_pb2_grpc.GenerationServiceStub(channel),
        scoring_pb2_grpc.ScoringServiceStub(channel),
    )
    known = alphabet(size)
    text = "".join(known[i] for i in np.random.default_rng(0).integers(len(known), size=READ))
    samplings = {
        "plain_us": pb.Sampling(seed=1),
        "top_k_us": pb.Sampling(seed=1, top_k=10),
        "top_p_us": pb.Sampling(seed=1, top_p=0.9),
    }
    for name, sampling in samplings.items():
        written = pb.GenerateRequest(sampling=sampling, samples=STREAMS, max_characters=WRITTEN)
        yield name, STREAMS * WRITTEN, partial(_drained, generation.Generate, written)
    yield "read_us", READ, partial(scoring.Score, scoring_pb2.ScoreRequest(texts=[text]))
    in_detail = scoring_pb2.ScoreRequest(texts=[text], ranks=True, top_alternatives=5)
    yield "detail_us", READ, partial(scoring.Score, in_detail)


def _drained(method: Callable[[Any], Iterator[Any]], request: object) -> None:
    for _ in method(request):
        pass


def row(size: int, layers: int, hidden: int) -> dict[str, Any]:
    """Measure one alphabet."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), layers, hidden, size)
        began = time.monotonic()
        with segue_server(Path(folder)) as server, watched_memory(server.process_id) as peak:
            found = {"size": size, "start_s": time.monotonic() - began, "start_cpu_s": cpu_seconds(server.process_id)}
            with grpc.insecure_channel(server.address) as channel:
                for name, characters, call in calls(channel, size):
                    found[name] = microseconds(server.process_id, characters, call)
    return found | {"memory_mib": peak.bytes / 2**20}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--sizes", type=numbers, default=[100, 20_000], help="characters of alphabets")
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=32)
    chosen = options.parse_args()
    rows = [row(size, chosen.layers, chosen.hidden) for size in chosen.sizes]
    show(f"alphabets, {chosen.layers} x {chosen.hidden} LSTM", COLUMNS, rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
