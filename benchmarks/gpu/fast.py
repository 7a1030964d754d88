"""Is it fast: runs and engines, against what the device could do."""

import time
from collections.abc import Callable, Iterator
from statistics import median, quantiles
from typing import Final

import numpy as np
import onnxruntime
from harness.products import products, square_product
from numpy.typing import NDArray
from segue_export.graphs.portable import portable_graph
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.engine.runners.onnx_session import CPU, CUDA
from segue_server.engine.runners.runner import Reading, Writing
from segue_server.engine.sampling import Sampling, SamplingRows
from segue_server.engine.sequence import Sequence, State

from gpu.finding import Finding
from gpu.scale import Scale
from gpu.subject import Subject

STEPS: Final = 128


def ceilings(scale: Scale) -> Iterator[Finding]:
    """Measure what the device can do at most: a large product, and a large copy."""
    for weights in ("float32", "float16"):
        yield Finding(f"large product, {weights}", _product_rate(scale, weights) / 1e12, "TFLOP/s")
    yield Finding("copy, read and written", _copy_rate(scale) / 1e9, "GB/s")


def steps(scale: Scale) -> Iterator[Finding]:
    """Time runs of the writing and the reading graph by themselves, with all copies."""
    peaks = {weights: _product_rate(scale, weights) for weights in ("float32", "float16")}
    copies = _copy_rate(scale)
    for size in ((2, 256), (2, 512), (1, 256), (3, 1024)) if scale.on_gpu else scale.sizes:
        for weights in ("float16", "float32"):
            subject = Subject("lstm", *size, weights)
            model = subject.on_device(scale)
            for rows in (1, 32, 1024, 4096) if scale.on_gpu else (1, 8):
                taken = _seconds(_writing(model, rows), scale.seconds)
                per_step = [1e6 * each / STEPS for each in taken]
                rate = rows * STEPS / median(taken)
                multiplied = products(subject.artifact.manifest) * rate / peaks[weights]
                moved = least_bytes(subject, rows) * STEPS / median(taken) / copies
                p99 = quantiles(per_step, n=100)[98]
                note = f"p99 {p99:.1f} us; {rate:,.0f} characters/s; {multiplied:.3f} of the product rate, "
                note += f"{moved:.3f} of the bandwidth"
                yield Finding(f"a step that writes, {rows} rows, {subject.name}", median(per_step), "us", note=note)
            rows = scale.rows[-1]
            rate = rows * STEPS / median(_seconds(_reading(model, rows), scale.seconds))
            yield Finding(f"runs that read, {rows} rows, {subject.name}", rate, "characters/s")


def least_bytes(subject: Subject, rows: int) -> int:
    """Return the bytes of device memory that a step cannot do without: the matrices, and states in and out."""
    manifest = subject.artifact.manifest
    matrices = products(manifest) // 2 * (2 if subject.weights == "float16" else 4)
    return matrices + rows * 2 * 2 * 4 * manifest.layers * manifest.hidden


def engine(scale: Scale) -> Iterator[Finding]:
    """Time an engine in this process, with everything that it does for each stream."""
    for weights in ("float16", "float32"):
        subject = Subject("lstm", *scale.middle, weights)
        model = subject.on_device(scale)
        for rows in (1, 64, 1024, 4096) if scale.on_gpu else (1, 8):
            rate = _engine_writes(model, rows, 4 * scale.seconds)
            yield Finding(f"engine writes, {rows} streams, {subject.name}", rate, "characters/s")
        rate = _engine_reads(model, scale.rows[-1], scale.symbols)
        yield Finding(f"engine scores, {scale.rows[-1]} texts, {subject.name}", rate, "characters/s")


def lstm_operator(scale: Scale) -> Iterator[Finding]:
    """Time the portable graph, whose layers are ONNX's LSTM operator (on CUDA cuDNN's): what reading could be."""
    subject = Subject("lstm", *scale.middle)
    graph = portable_graph(subject.artifact.manifest, subject.artifact.weights)
    provider = CUDA if scale.on_gpu else CPU
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=[provider])
    rows, layers, hidden = scale.rows[-1], *scale.middle
    kind = "cuda" if scale.on_gpu else "cpu"
    state = np.zeros((layers, rows, hidden), dtype=np.float32)
    binding = session.io_binding()
    for name, value in (("tokens", np.ones((rows, STEPS), dtype=np.int64)), ("h", state), ("c", state)):
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value, kind, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, kind)
    taken = _seconds(lambda: session.run_with_iobinding(binding), scale.seconds)
    yield Finding(f"the LSTM operator reads, {rows} rows, {subject.name}", rows * STEPS / median(taken), "characters/s")


def cudnn(scale: Scale) -> Iterator[Finding]:
    """Time PyTorch's LSTM, on a GPU cuDNN's, reading without an output layer."""
    import torch

    layers, hidden = scale.middle
    rows = scale.rows[-1]
    for kind in (torch.float16, torch.float32) if scale.on_gpu else (torch.float32,):
        lstm = torch.nn.LSTM(hidden, hidden, layers).to(scale.device, kind)
        inputs = torch.randn(STEPS, rows, hidden, device=scale.device, dtype=kind)

        def read(lstm: torch.nn.LSTM = lstm, inputs: torch.Tensor = inputs) -> None:
            with torch.inference_mode():
                lstm(inputs)
            if scale.on_gpu:
                torch.cuda.synchronize()

        rate = rows * STEPS / median(_seconds(read, scale.seconds))
        yield Finding(f"PyTorch's LSTM reads, {rows} rows, {layers} x {hidden} {kind}", rate, "characters/s")


def _writing(model: Model, rows: int) -> Callable[[], object]:
    states = model.scatter(*_states(model, rows))
    generator = np.random.default_rng(0)
    uniform = generator.random((STEPS, rows), dtype=np.float32)
    sampling = SamplingRows([Sampling()] * rows, model.symbols.barred)
    ids = generator.integers(1, len(model.vocabulary), rows)
    writing = Writing(ids, np.zeros(rows, dtype=np.int64), sampling, uniform, filtered=False, scored=False)
    return lambda: model.write(states, writing)


def _reading(model: Model, rows: int) -> Callable[[], object]:
    states = model.scatter(*_states(model, rows))
    ids = np.random.default_rng(0).integers(1, len(model.vocabulary), (STEPS + 1, rows))
    reading = Reading(ids[:-1], ids[1:], np.full(rows, STEPS))
    return lambda: model.read(states, reading)


def _states(model: Model, rows: int) -> tuple[np.ndarray, np.ndarray]:
    layers, hidden = model.state_shape
    h, c = np.random.default_rng(0).uniform(-0.5, 0.5, (2, layers, rows, hidden)).astype(np.float32)
    return h, c


def _engine_writes(model: Model, rows: int, seconds: float) -> float:
    running, nothing = Engine(model), np.empty(0, dtype=np.int64)
    for seed in range(rows):
        running.add(Sequence(State.after_first(1, model.state_shape, seed), nothing, 2**40, keep_state=False))
    for _ in range(4):
        running.step(STEPS, 0)
    running.collect()
    began, symbols, part = time.perf_counter(), 0, 0
    while time.perf_counter() < began + seconds:
        running.step(STEPS, 0)
        running.collect((part % 16,))
        symbols, part = symbols + running.symbols, part + 1
    return symbols / (time.perf_counter() - began)


def _engine_reads(model: Model, rows: int, length: int) -> float:
    texts = np.random.default_rng(0).integers(1, len(model.vocabulary), (rows, length))
    taken = list[float]()
    for _ in range(2):  # the first records what it runs
        running = Engine(model)
        for text in texts:
            state = State.after_first(1, model.state_shape, 0)
            running.add(Sequence(state, text, score_prefill=True, keep_state=False))
        began = time.perf_counter()
        while len(running):
            running.step(1, 2**24)
            running.collect()
        taken.append(time.perf_counter() - began)
    return rows * length / min(taken)


def _seconds(once: Callable[[], object], least: float) -> list[float]:
    """Return what runs take, of as many as take `least` seconds together."""
    for _ in range(3):
        once()
    found: list[float] = []
    while sum(found) < least or len(found) < 20:
        began = time.perf_counter()
        once()
        found.append(time.perf_counter() - began)
    return found


def _product_rate(scale: Scale, weights: str) -> float:
    square = 8192 if scale.on_gpu else 256
    kind = np.float16 if scale.on_gpu and weights == "float16" else np.float32
    value: NDArray[np.floating] = np.random.default_rng(0).random((square, square), dtype=np.float32).astype(kind)
    provider, place = (CUDA, "cuda") if scale.on_gpu else (CPU, "cpu")
    settings = {"use_tf32": "0"} if scale.on_gpu else {}
    session = onnxruntime.InferenceSession(square_product(value), providers=[(provider, settings)])
    binding = session.io_binding()
    binding.bind_ortvalue_input("left", onnxruntime.OrtValue.ortvalue_from_numpy(value, place, 0))
    result = onnxruntime.OrtValue.ortvalue_from_shape_and_type([square, square], kind, place, 0)
    binding.bind_ortvalue_output("product", result)
    return 2 * square**3 / median(_seconds(lambda: session.run_with_iobinding(binding), scale.seconds))


def _copy_rate(scale: Scale) -> float:
    import torch

    size = 2**30 if scale.on_gpu else 2**22
    source = torch.ones(size, dtype=torch.uint8, device=scale.device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if scale.on_gpu:
            torch.cuda.synchronize()

    return 2 * size / median(_seconds(copy, scale.seconds))
