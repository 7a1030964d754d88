"""A server: streams over gRPC, the memory that they take, and tickets that change from device to device."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness.machine import resident_bytes
from harness.served import Server, room_for, serving
from segue_client import Client
from segue_export.artifact import write_artifact
from segue_export.graphs.portable import portable_graph
from streams import measure

from gpu.finding import Finding
from gpu.scale import Scale
from gpu.subject import Subject

_PROMPT: Final = "A"
_SEED: Final = 7
_PART: Final = 100
"""Characters that each server writes in turn."""


def speed(scale: Scale) -> Iterator[Finding]:
    """Time streams, as `segue serve` batches them by default and set free."""
    for batching in ("fixed", "free"):
        subject = Subject("lstm", *scale.sizes[0], "float16" if scale.on_gpu else "float32")
        with _models(subject) as models, _server(models, scale.device, scale, "--batching", batching) as server:
            for streams, characters in scale.served:
                measure(server, streams, characters // 10)  # records what it runs
                load = measure(server, streams, characters).load
                what = f"served over gRPC, {streams} streams, {batching}, {subject.name}"
                yield Finding(what, load.characters / load.seconds, "characters/s")
            note = f"{resident_bytes(server.process_id) / 1e6:,.0f} MB on the host"
            yield Finding(f"memory of the GPU, {batching}, {subject.name}", _gpu_memory(), note=note)


def tickets(scale: Scale) -> Iterator[Finding]:
    """Write a text in turns, on the device and on the CPU, and compare it with the CPU's own."""
    for weights in ("float32", "float16"):
        subject = Subject("lstm", *scale.middle, weights)
        with (
            _models(subject) as models,
            _server(models, scale.device, scale) as ours,
            _server(models, "cpu", scale) as cpu,
        ):
            text, ticket, exact = "", None, list[str]()
            for server in (ours, cpu, ours):
                part, ticket, is_exact = _part(server, ticket)
                text, exact = text + part, [*exact, str(is_exact)]
            with Client(cpu.address) as client:
                whole = client.generate(_PROMPT, max_characters=3 * _PART, seed=_SEED).text()
        agrees = sum(a == b for a, b in zip(text, whole, strict=True)) / len(whole)
        note = f"exact: {', '.join(exact)}"
        yield Finding(f"characters of a text that changed servers by ticket, {subject.name}", agrees, note=note)


def _part(server: Server, ticket: bytes | None) -> tuple[str, bytes | None, bool]:
    """Return the next part of the text, a ticket for what follows, and whether it is exact."""
    with Client(server.address) as client:
        prompt, seed = ("", None) if ticket else (_PROMPT, _SEED)
        generation = client.generate(
            prompt, ticket=ticket, seed=seed, max_characters=_PART, return_ticket=True, exact=False
        )
        text, finished = generation.text(), generation.finished
        return text, None if finished is None else finished.ticket, generation.exact


@contextmanager
def _models(subject: Subject) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        manifest, weights = subject.artifact.manifest, subject.artifact.weights
        write_artifact(Path(folder), "subject", manifest, portable_graph(manifest, weights))
        yield Path(folder)


@contextmanager
def _server(models: Path, device: str, scale: Scale, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "segue_client", "serve", str(models), "--port", "0", "--device", device]
    most = max(streams for streams, _ in scale.served)
    with serving(
        [*command, *room_for(most), "--keys", str(models / "keys"), "--sessions", "memory:", *options]
    ) as server:
        yield server


def _gpu_memory() -> str:
    """Return what is in use of the GPU's memory."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "not shown: no GPU"
