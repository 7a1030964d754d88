"""What CUDA makes of the server's graphs: the right numbers, the same numbers in any company, and how fast.

    python benchmarks/gpu.py [--provider cuda] [--parts right,company,writing,reading] [--json]

right     log-probabilities and symbols beside the CPU's, for architectures, sizes, batches and both kinds of weights
company   whether a row's bits depend on the number of rows in its batch, and on its place and neighbours in one batch
writing   16 steps in one run, sampling inside, by rows; reading: scoring by rows. Each in three ways:
            arrays    NumPy arrays in and out of every run
            bound     each input and output in its own buffer on the device
            captured  the same, replayed as a CUDA graph

Runs that are bound or captured are timed with their work on the device alone: a server's ids and uniforms, a few KB a
run, come on top. `--provider cpu` tries the script itself where there is no GPU, and says nothing about CUDA.
"""

# Shape suffixes: B rows, T steps, V vocabulary.

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
from harness.products import products, square_product
from harness.served import make_manifest
from harness.tables import Column, Row, numbers, parser, show
from numpy.typing import NDArray
from segue_export.graphs.portable import portable_graph
from segue_export.graphs.quantization import dequantize, halve
from segue_export.graphs.reading import reading_graph
from segue_export.graphs.step import Step
from segue_export.graphs.writing import WritingVariant, writing_graph
from segue_export.manifest import Weights
from segue_server.engine.onnx_session import CPU, CUDA, cuda_is_built_in, open_session
from segue_training.models import Architecture, ModelConfig, build_model

STEPS: Final = 16
SQUARE: Final = 8192
"""Of the matrices whose product is the peak."""
PARTS: Final = ("right", "company", "writing", "reading")
SIZES: Final = ((1, 256), (2, 512), (3, 1024))
Feed = dict[str, NDArray[Any]]

RIGHT: Final = (
    Column("model", "model"),
    Column("weights", "weights"),
    Column("rows", "rows", ",.0f"),
    Column("difference", "log-probability differs by", ".1e"),
    Column("agreement", "symbols agree", ".4%"),
    Column("off_device", "nodes off the device"),
)
COMPANY: Final = (
    Column("model", "model"),
    Column("weights", "weights"),
    Column("graph", "graph"),
    Column("groups", "numbers of rows with the same bits"),
    Column("place", "same in any place and company of 64", ""),
)
FAST: Final = (
    Column("model", "model"),
    Column("weights", "weights"),
    Column("way", "way"),
    Column("rows", "rows", ",.0f"),
    Column("us", "us / step", ",.1f"),
    Column("p99", "p99 us / step", ",.1f"),
    Column("per_second", "characters/s", ",.0f"),
    Column("of_peak", "of peak", ".3f"),
)


class Subject:
    """A model of random weights, with float32 or float16 matrices."""

    def __init__(self, architecture: Architecture, layers: int, hidden: int, weights: str = "float32") -> None:
        manifest = make_manifest(architecture, layers, hidden)
        torch.manual_seed(0)
        module = build_model(ModelConfig(len(manifest.vocabulary), 64, hidden, layers, architecture))
        tensors: Weights = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
        if weights == "float16":
            manifest, tensors = replace(manifest, weights="float16"), halve(tensors, layers)
        self.name = f"{layers} x {hidden} {architecture}"
        self.weights, self.manifest, self.tensors = weights, manifest, tensors

    def writing(self, provider: str, unrolled: int = STEPS) -> bytes:
        """Return the graph that writes."""
        return writing_graph(self._step(provider), WritingVariant(unrolled=unrolled))

    def reading(self, provider: str, unrolled: int = STEPS) -> bytes:
        """Return the graph that scores."""
        return reading_graph(self._step(provider), ragged=False, unrolled=unrolled)

    def portable(self) -> bytes:
        """Return the portable graph, whose layers are ONNX operators."""
        weights = dequantize(self.tensors, self.manifest.layers)
        graph: bytes = portable_graph(replace(self.manifest, weights="float32"), weights)
        return graph

    def feed(self, rows: int, steps: int = STEPS) -> Feed:
        """Return the inputs of both graphs; row b's are the same for every number of rows."""
        by_row = [np.random.default_rng(b) for b in range(rows)]
        ids_TB = np.stack([generator.integers(1, len(self.manifest.vocabulary), steps + 1) for generator in by_row], 1)
        uniform = np.stack([generator.random((steps, 1), dtype=np.float32) for generator in by_row], 1)
        h, c = (
            np.stack(
                [generator.uniform(-0.5, 0.5, (self.manifest.layers, self.manifest.hidden)) for generator in by_row], 1
            ).astype(np.float32)
            for _ in "hc"
        )
        return {
            "steps": np.array(steps),
            "tokens": ids_TB[:-1],
            "targets": ids_TB[1:],
            "token": ids_TB[0],
            "h": h,
            "c": c,
            "uniform": uniform,
            "inverse_temperature": np.ones((rows, 1), dtype=np.float32),
            "bias": np.zeros((1, len(self.manifest.vocabulary)), dtype=np.float32),
        }

    def _step(self, provider: str) -> Step:
        return Step(self.manifest, self.tensors, in_float16=provider == CUDA)


def run(session: onnxruntime.InferenceSession, feed: Mapping[str, NDArray[Any]]) -> Feed:
    """Run once with arrays."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, _wanted(session, feed)), strict=True))


def _wanted(session: onnxruntime.InferenceSession, feed: Mapping[str, NDArray[Any]]) -> Feed:
    return {each.name: np.ascontiguousarray(feed[each.name]) for each in session.get_inputs()}


def bound(
    graph: bytes, provider: str, feed: Mapping[str, NDArray[Any]], *, captured: bool
) -> tuple[Callable[[], None], Callable[[], Feed]]:
    """Return a run with all buffers on the device, and what reads its outputs."""
    kind = "cuda" if provider == CUDA else "cpu"
    session = open_session(graph, provider, 1)
    outputs = run(session, feed)
    if captured:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        settings = {"use_tf32": "0", "enable_cuda_graph": "1"}
        session = onnxruntime.InferenceSession(graph, options, providers=[(CUDA, settings)], enable_fallback=0)
    binding = session.io_binding()
    for name, value in _wanted(session, feed).items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value, kind, 0))
    results = {
        name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(value.shape, value.dtype, kind, 0)
        for name, value in outputs.items()
    }
    for name, result in results.items():
        binding.bind_ortvalue_output(name, result)
    run_options = onnxruntime.RunOptions()
    if captured:
        run_options.add_run_config_entry("gpu_graph_id", "1")

    def once() -> None:
        session.run_with_iobinding(binding, run_options)

    once()
    return once, lambda: {name: result.numpy() for name, result in results.items()}


def off_device(graph: bytes, provider: str, feed: Mapping[str, NDArray[Any]]) -> str:
    """Return the operators that ran elsewhere, from a profile of one run."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    session = onnxruntime.InferenceSession(graph, options, providers=[provider])
    run(session, feed)
    profile = Path(session.end_profiling())
    events = [each.get("args", {}) for each in json.loads(profile.read_text())]
    profile.unlink()
    nodes = [each for each in events if "op_name" in each]
    assert nodes
    return " ".join(sorted({each["op_name"] for each in nodes if each.get("provider") != provider})) or "none"


def right(provider: str, rows: Iterable[int]) -> list[Row]:
    """Compare with the CPU."""
    found: list[Row] = []
    subjects = [Subject("lstm", *size, weights) for weights in ("float32", "float16") for size in SIZES]
    subjects += [Subject("gru", *size) for size in SIZES[:2]] + [Subject("rnn", *size) for size in SIZES[:2]]
    for subject in subjects:
        ours = [
            (open_session(graph, provider, 1), open_session(cpu, CPU, 0))
            for graph, cpu in (
                (subject.reading(provider), subject.reading(CPU, 0)),
                (subject.writing(provider), subject.writing(CPU, 0)),
            )
        ]
        elsewhere = off_device(subject.writing(provider, 1), provider, subject.feed(1, 1))
        for count in rows:
            feed = subject.feed(count)
            (read, read_cpu), (wrote, wrote_cpu) = ((run(a, feed), run(b, feed)) for a, b in ours)
            found.append(
                {
                    "model": subject.name,
                    "weights": subject.weights,
                    "rows": count,
                    "difference": float(np.abs(read["log_probabilities"] - read_cpu["log_probabilities"]).max()),
                    "agreement": float((wrote["ids"] == wrote_cpu["ids"]).mean()),
                    "off_device": elsewhere,
                }
            )
    return found


def company(provider: str, most: int) -> list[Row]:
    """Look for the numbers of rows at which rows have the same bits."""
    sizes = [rows for rows in (1, 2, 3, 4, 7, 8, 16, 17, 32, 33, 64, 128, 256, 1024, 4096) if rows <= most]
    found: list[Row] = []
    for weights in ("float32", "float16"):
        for layers, hidden in SIZES:
            subject = Subject("lstm", layers, hidden, weights)
            for kind, graph in (("reading", subject.reading(provider)), ("writing", subject.writing(provider))):
                session = open_session(graph, provider, 1)
                by_bits: dict[bytes, list[int]] = {}
                for rows in sizes:
                    by_bits.setdefault(_bits(run(session, subject.feed(rows)), 0), []).append(rows)
                found.append(
                    {
                        "model": subject.name,
                        "weights": weights,
                        "graph": kind,
                        "groups": " | ".join(" ".join(map(str, group)) for group in by_bits.values()),
                        "place": str(_same_in_any_place(session, subject)),
                    }
                )
    return found


def _same_in_any_place(session: onnxruntime.InferenceSession, subject: Subject) -> bool:
    """Return whether the rows of a batch of 64 have the same bits in another order, among other rows."""
    feed = subject.feed(96)
    alone = run(session, _rows(feed, np.arange(64)))
    order = np.concatenate([np.arange(95, 63, -1), np.arange(31, -1, -1)])
    other = run(session, _rows(feed, order))
    return all(_bits(alone, row) == _bits(other, 63 - row) for row in range(32))


def _rows(feed: Feed, rows: NDArray[np.int64]) -> Feed:
    """Return some rows of a feed."""
    axes = {"tokens": 1, "targets": 1, "token": 0, "h": 1, "c": 1, "uniform": 1, "inverse_temperature": 0}
    return feed | {name: np.ascontiguousarray(feed[name].take(rows, axis)) for name, axis in axes.items()}


def _bits(outputs: Feed, row: int) -> bytes:
    return b"".join(outputs[name][:, row].tobytes() for name in sorted(outputs))


def fast(kind: str, provider: str, rows: Iterable[int], sizes: Iterable[tuple[int, int]], least: float) -> list[Row]:
    """Time runs of one graph, in each way."""
    found: list[Row] = []
    for weights in ("float32", "float16"):
        peak = products_per_second(provider, weights, least)
        for layers, hidden in sizes:
            subject = Subject("lstm", layers, hidden, weights)
            graph = subject.writing(provider) if kind == "writing" else subject.reading(provider)
            for count in rows:
                for way, once in ways(graph, provider, subject.feed(count)).items():
                    taken = seconds(once, least)
                    found.append(
                        {
                            "model": subject.name,
                            "weights": weights,
                            "way": way,
                            "rows": count,
                            "us": 1e6 * median(taken) / STEPS,
                            "p99": 1e6 * quantiles(taken, n=100)[98] / STEPS,
                            "per_second": count * STEPS / median(taken),
                            "of_peak": products(subject.manifest) * count * STEPS / median(taken) / peak,
                        }
                    )
    return found


def ways(graph: bytes, provider: str, feed: Feed) -> dict[str, Callable[[], object]]:
    """Return the ways to run `graph`; each must give the bits that arrays give."""
    session = open_session(graph, provider, 1)
    expected = run(session, feed)
    found: dict[str, Callable[[], object]] = {"arrays": lambda: run(session, feed)}
    for way in ("bound", "captured") if provider == CUDA else ("bound",):
        found[way], outputs = bound(graph, provider, feed, captured=way == "captured")
        found[way]()
        if not all(np.array_equal(value, expected[name]) for name, value in outputs().items()):
            raise SystemExit(f"{way}: other bits than with arrays")
    return found


def seconds(once: Callable[[], object], least: float) -> list[float]:
    """Return what runs take, of as many as take `least` seconds together."""
    for _ in range(3):
        once()
    found: list[float] = []
    while sum(found) < least or len(found) < 20:
        began = time.perf_counter()
        once()
        found.append(time.perf_counter() - began)
    return found


def products_per_second(provider: str, weights: str, least: float) -> float:
    """Return the floating-point operations a second of a large product in ONNX Runtime."""
    halved, square = provider == CUDA and weights == "float16", SQUARE if provider == CUDA else 512
    value = np.random.default_rng(0).random((square, square), dtype=np.float32)
    value = value.astype(np.float16) if halved else value
    once, _ = bound(square_product(value), provider, {"left": value}, captured=False)
    return 2 * square**3 / median(seconds(once, least))


def card() -> str:
    """Name the GPU and its driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--parts", default=",".join(PARTS), help="some of them")
    options.add_argument("--rows", type=numbers, default=[1, 32, 256, 1024, 4096])
    options.add_argument("--seconds", type=float, default=0.25, help="of each timing")
    arguments = options.parse_args()
    if arguments.provider == "cuda" and not cuda_is_built_in():
        raise SystemExit("the installed onnxruntime has no CUDA support: install onnxruntime-gpu")
    provider = CUDA if arguments.provider == "cuda" else CPU
    parts, facts = arguments.parts.split(","), {"card": card(), "onnxruntime": onnxruntime.__version__}
    for part in (part for part in PARTS if part in parts):
        began = time.perf_counter()
        columns: tuple[Column, ...] = FAST
        if part == "right":
            columns, rows = RIGHT, right(provider, [row for row in (1, 64, 1024) if row <= max(arguments.rows)])
        elif part == "company":
            columns, rows = COMPANY, company(provider, max(arguments.rows))
        else:
            rows = fast(part, provider, arguments.rows, SIZES[:2], arguments.seconds)
        took = f"{time.perf_counter() - began:.0f}"
        show(f"{part} on {provider}", columns, rows, as_json=arguments.json, **facts, seconds=took)


if __name__ == "__main__":
    main()
