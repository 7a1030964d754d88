"""How many characters a second: the server over gRPC beside a bare ONNX Runtime loop, in one run on one model.

    python benchmarks/throughput.py [--layers 1] [--hidden 256] [--streams 64] [--json]

The bare loop runs the same portable graph on the same host with as many rows as there are streams, one character a
run, and samples nothing but the likeliest character: it is what the model costs where nobody is served. The server
is a process of its own; the clients are in this one and share the machine with it, so that beside wall-clock
stands the CPU time of the server alone. Repeats of both alternate; the medians are printed.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from charlm_client import AsyncClient
from charlm_export.artifact import FORMAT_VERSION, CorpusDescription, Manifest, read_artifact, write_artifact
from charlm_export.graph import portable_graph
from charlm_server.model import Model
from charlm_training.models import ModelConfig, Recurrent
from charlm_training.vocabulary import Vocabulary
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

TEXT_CHARACTERS = [chr(code) for code in (10, *range(32, 96))]  # as many as tinyshakespeare has


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


def make_model(models: Path, layers: int, hidden: int) -> Path:
    """Write a model of random weights: the cost of a step does not depend on them."""
    vocabulary = Vocabulary(("<unk>", *TEXT_CHARACTERS))
    torch.manual_seed(0)
    module = Recurrent(ModelConfig(vocabulary_size=len(vocabulary), embedding=64, hidden=hidden, layers=layers))
    corpus = CorpusDescription("none", "0" * 64, 1)
    manifest = Manifest(
        FORMAT_VERSION, "lstm", layers, hidden, vocabulary.characters, "line-feeds", "\n", corpus, 4.0, "none", {}, {}
    )
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    return write_artifact(models, "benchmark", manifest, portable_graph(manifest, weights))


def bare_loop(model: Model, rows: int, steps: int) -> Rate:
    """Step `rows` rows together, feeding back the likeliest character."""
    tokens = np.ones((rows, 1), dtype=np.int64)
    h = c = np.zeros((model.state_shape[0], rows, model.state_shape[1]), dtype=np.float32)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        logits, h, c = model.run(tokens, h, c)
        tokens = logits[:, 0].argmax(axis=1)[:, np.newaxis]
    return Rate(rows * steps, time.perf_counter() - wall, time.process_time() - cpu)


def served(address: str, process_id: int, streams: int, characters: int) -> Rate:
    """Read `streams` concurrent texts over gRPC."""

    async def read_all() -> None:
        async with AsyncClient(address) as client:

            async def read(seed: int) -> None:
                generation = await client.generate("The ", seed=seed, max_characters=characters)
                async for _ in generation:
                    pass

            await asyncio.gather(*map(read, range(streams)))

    wall, cpu = time.perf_counter(), cpu_seconds(process_id)
    asyncio.run(read_all())
    return Rate(streams * characters, time.perf_counter() - wall, cpu_seconds(process_id) - cpu)


def cpu_seconds(process_id: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def hardware() -> str:
    """Name the processor, the cores of this process and the system."""
    information = Path("/proc/cpuinfo").read_text()
    found = re.search(r"model name\s*: (.*)", information)
    wide = "AVX-512" if "avx512f" in information else "AVX2" if "avx2" in information else "no AVX2"
    name = found[1] if found else platform.machine()
    return f"{name} ({wide}), {len(os.sched_getaffinity(0))} cores, {platform.system()}"


def measure(options: argparse.Namespace) -> dict[str, list[Rate]]:
    """Alternate the two measurements and return the repeats of each."""
    rates: dict[str, list[Rate]] = {"bare": [], "served": []}
    with tempfile.TemporaryDirectory() as folder:
        model = Model(read_artifact(make_model(Path(folder), options.layers, options.hidden)))
        command = [sys.executable, "-m", "charlm_client", "serve", folder, "--port", "0", "--device", "cpu"]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process,  # noqa: S603
            Progress(console=Console(stderr=True), transient=True) as progress,
        ):
            assert process.stdout
            address = process.stdout.readline().removeprefix("ready: ").strip()
            bare_loop(model, options.streams, 20)
            served(address, process.pid, options.streams, 64)
            for _ in progress.track(range(options.repeats), description="measuring"):
                rates["bare"].append(bare_loop(model, options.streams, options.characters))
                rates["served"].append(served(address, process.pid, options.streams, options.characters))
            process.send_signal(signal.SIGTERM)
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--characters", type=int, default=4000, help="of each stream and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rates = measure(options)
    result = {
        "model": f"{options.layers} x {options.hidden}",
        "streams": options.streams,
        "hardware": hardware(),
        **{
            f"{name}_{figure}": round(median(getattr(rate, figure) for rate in repeats), 2)
            for name, repeats in rates.items()
            for figure in ("per_second", "cpu_per_million")
        },
        "ratio": round(median(s.per_second / b.per_second for b, s in zip(*rates.values(), strict=True)), 3),
        "cpu_ratio": round(
            median(s.cpu_per_million / b.cpu_per_million for b, s in zip(*rates.values(), strict=True)), 3
        ),
    }
    if options.json:
        print(json.dumps(result))
        return
    table = Table(
        title=f"{result['model']} LSTM, {options.streams} streams, medians of {options.repeats}; {hardware()}"
    )
    for heading in ("", "characters/s", "CPU s per million characters"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, title in (("bare", "bare ONNX Runtime loop"), ("served", "server over gRPC")):
        table.add_row(title, f"{result[f'{name}_per_second']:,.0f}", f"{result[f'{name}_cpu_per_million']:.1f}")
    table.add_row("ratio (median of pairs)", f"{result['ratio']:.2f}", f"{result['cpu_ratio']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
