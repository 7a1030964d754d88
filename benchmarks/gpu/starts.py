"""Does it start: versions, the card, where every node of every graph runs, and how memory is copied."""

import json
import mmap
import platform
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from segue_export.graphs.reading import Result, reading_graph
from segue_export.graphs.step import Step
from segue_export.graphs.unrolled import giving_graph, taking_graph
from segue_export.graphs.writing import WritingVariant, writing_graph
from segue_server.engine.runners.accelerator import Gpu
from segue_server.engine.runners.onnx_session import CPU, CUDA
from segue_server.engine.runners.pinned_memory import pin
from segue_training.models import Architecture

from gpu.finding import Finding
from gpu.scale import Scale
from gpu.subject import Subject

_ARCHITECTURES: Final[tuple[Architecture, ...]] = ("lstm", "gru", "rnn")
_DIMENSIONS: Final = {"batch": 3, "steps": 4, "time": 4, "slots": 9, "bias_rows": 1}


def versions(scale: Scale) -> Iterator[Finding]:
    """Name what runs, and on what."""
    yield Finding("Python", platform.python_version())
    yield Finding("onnxruntime", onnxruntime.__version__, note=" ".join(onnxruntime.get_available_providers()))
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        found = "none"
    yield Finding("GPU (memory, used, driver)", found, passed=None if found == "none" else True)
    yield Finding("provider", CUDA if scale.on_gpu else CPU)


def memory(scale: Scale) -> Iterator[Finding]:
    """Copy to the GPU and back."""
    if not scale.on_gpu:
        yield Finding("copies through pinned memory", "not shown: no GPU")
        return
    gpu = Gpu()
    pages = mmap.mmap(-1, mmap.PAGESIZE)
    pinned = pin(np.frombuffer(pages, dtype=np.uint8), pages)
    yield Finding("copies through pinned memory", "yes" if pinned else "no", passed=pinned)
    buffer = gpu.buffer((1024, 96), np.float32)
    buffer.staging[...] = np.random.default_rng(0).random((1024, 96))
    sent = buffer.staging.copy()
    gpu.upload([buffer])
    buffer.staging[...] = 0
    gpu.download([buffer])
    yield Finding("a copy comes back unchanged", "yes", passed=bool((buffer.staging == sent).all()))


def placement(scale: Scale) -> Iterator[Finding]:
    """Run every kind of graph once, and read from the profile where its nodes ran."""
    provider = CUDA if scale.on_gpu else CPU
    for architecture, weights in product(_ARCHITECTURES, ("float32", "float16")):
        subject = Subject(architecture, *scale.sizes[0], weights)
        step = Step(subject.artifact.manifest, subject.artifact.weights, in_float16=scale.on_gpu)
        elsewhere = set[str]()
        for name, graph in _graphs(step):
            elsewhere |= {f"{name}: {operator}" for operator in _off(graph, provider)}
        found = ", ".join(sorted(elsewhere)) or "none"
        yield Finding(f"nodes elsewhere, {subject.name}", found, passed=not elsewhere)


def _graphs(step: Step) -> Iterator[tuple[str, bytes]]:
    manifest = step.manifest
    for ragged, result in product((False, True), (Result.OF_TARGETS, Result.IN_DETAIL)):
        graph = reading_graph(step, ragged=ragged, unrolled=_DIMENSIONS["time"], ranked=2, result=result)
        yield f"reading{' ragged' * ragged} {result.name.lower()}", graph
    for filtered, scored, alternatives in product((False, True), repeat=3):
        variant = WritingVariant(filtered, scored, alternatives, unrolled=_DIMENSIONS["steps"], ranked=2)
        yield f"writing {variant}", writing_graph(step, variant)
    yield "giving", giving_graph(manifest)
    yield "taking", taking_graph(manifest)


def _off(graph: bytes, provider: str) -> set[str]:
    """Return the operators that ran elsewhere; raises RuntimeError if the profile names no node."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    session = onnxruntime.InferenceSession(graph, options, providers=[provider])
    session.run(None, {each.name: _zeros(each) for each in session.get_inputs()})
    profile = Path(session.end_profiling())
    events = [each.get("args", {}) for each in json.loads(profile.read_text())]
    profile.unlink()
    nodes = [each for each in events if "op_name" in each]
    if not nodes:
        raise RuntimeError("the profile names no node")
    return {each["op_name"] for each in nodes if each.get("provider") != provider}


def _zeros(declared: onnxruntime.NodeArg) -> np.ndarray:
    shape = [_DIMENSIONS[axis] if isinstance(axis, str) else axis for axis in declared.shape]
    if declared.name in {"after", "before"}:
        return np.arange(shape[0]) + (3 if declared.name == "after" else 0)
    return np.zeros(shape, dtype=np.int64 if declared.type == "tensor(int64)" else np.float32)
