"""Is it right: against the CPU, against itself in other company, and across devices."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
from segue_server.engine.model import Model
from segue_server.engine.runners.runner import Reading, Writing
from segue_server.engine.sampling import Sampling, SamplingRows
from segue_server.engine.sequence import Sequence, State, StepOutput
from segue_server.runtime.device_check import check_device
from segue_server.runtime.self_check import check, run_together

from gpu.finding import Finding
from gpu.scale import Scale
from gpu.subject import Subject, sequence

_TICK: Final = 32
STEPS: Final = 21
"""Of the runs that are compared: 16, 4 and 1."""
_COMPARED: Final = 64
"""Rows at most that the CPU computes as well."""
BOUNDS: Final = {"float32": 2e-5, "float16": 5e-3}
"""By which log-probabilities may differ from the CPU's, in nats."""
AGREEMENT: Final = {"float32": 0.999, "float16": 0.97}
"""The share of sampled symbols that must agree, in texts that are sampled alike from equal states."""


@dataclass(frozen=True)
class _Inputs:
    """Of both kinds of run; row b's are the same for any number of rows."""

    h: np.ndarray
    c: np.ndarray
    ids: np.ndarray
    uniform: np.ndarray

    @classmethod
    def of(cls, model: Model, rows: Iterable[int]) -> "_Inputs":
        layers, hidden = model.state_shape
        generators = [np.random.default_rng(row) for row in rows]
        ids = np.stack([each.integers(1, len(model.vocabulary), STEPS + 1) for each in generators], axis=1)
        uniform = np.stack([each.random(STEPS, dtype=np.float32) for each in generators], axis=1)
        h, c = (
            np.stack([each.uniform(-0.5, 0.5, (layers, hidden)) for each in generators], axis=1).astype(np.float32)
            for _ in "hc"
        )
        return cls(h, c if model.manifest.architecture == "lstm" else np.zeros_like(c), ids, uniform)


@dataclass(frozen=True)
class _Results:
    scores: np.ndarray
    ids: np.ndarray
    h: np.ndarray
    c: np.ndarray

    def bits(self, row: int) -> bytes:
        parts = (self.scores[:, row], self.ids[:, row], self.h[:, row], self.c[:, row])
        return b"".join(part.tobytes() for part in parts)


def _both(model: Model, inputs: _Inputs) -> tuple[_Results, _Results]:
    """Read and write."""
    ids, rows = inputs.ids, model.scatter(inputs.h, inputs.c)
    read = model.read(rows, Reading(ids[:-1], ids[1:], np.full(ids.shape[1], STEPS)))
    sampling = SamplingRows([Sampling()] * ids.shape[1], model.symbols.barred)
    spelling = np.zeros(ids.shape[1], dtype=np.int64)
    wrote = model.write(rows, Writing(ids[0], spelling, sampling, inputs.uniform, filtered=False, scored=True))
    assert wrote.log_probabilities_KB is not None
    return (
        _Results(read.log_probabilities_TB, ids[1:], *model.gather(read.rows)),
        _Results(wrote.log_probabilities_KB, wrote.ids_KB, *model.gather(wrote.rows)),
    )


def subjects(scale: Scale) -> Iterator[Subject]:
    """Yield every architecture, size and type of weights that is compared, the most important first."""
    sizes = (scale.middle, *(size for size in scale.sizes if size != scale.middle))
    yield from (Subject("lstm", *size, weights) for weights in ("float16", "float32") for size in sizes)
    yield from (Subject(kind, *size) for size in sizes for kind in ("gru", "rnn"))


def numbers(scale: Scale) -> Iterator[Finding]:
    """Compare every model with the CPU, and with itself in other company."""
    for subject in subjects(scale):
        model, cpu = subject.on_device(scale), subject.on_cpu()
        yield from _beside_cpu(scale, subject, model, cpu)
        yield from _company(scale, subject, model)


def _beside_cpu(scale: Scale, subject: Subject, model: Model, cpu: Model) -> Iterator[Finding]:
    """Compare the first rows of each batch with the CPU's."""
    first = min(scale.rows[-1], _COMPARED)
    expected = _both(cpu, _Inputs.of(cpu, range(first)))
    difference, agreement = 0.0, 1.0
    for rows in (scale.rows[0], scale.rows[len(scale.rows) // 2], scale.rows[-1]):
        count = min(rows, first)
        (read, wrote), (read_cpu, wrote_cpu) = _both(model, _Inputs.of(model, range(rows))), expected
        scores = read.scores[:, :count] - read_cpu.scores[:, :count]
        difference = max(difference, float(np.abs(scores).max()))
        agreement = min(agreement, float((wrote.ids[:, :count] == wrote_cpu.ids[:, :count]).mean()))
    bound, least = BOUNDS[subject.weights], AGREEMENT[subject.weights]
    what = f"log-probabilities beside the CPU's, {subject.name}"
    yield Finding(what, difference, "nats", difference <= bound, f"<= {bound}")
    what = f"symbols that agree with the CPU's, {subject.name}"
    yield Finding(what, agreement, "", agreement >= least, f">= {least}")


def _company(scale: Scale, subject: Subject, model: Model) -> Iterator[Finding]:
    """Look for the numbers of rows at which a row has the same bits, and for its bits in another place."""
    groups: tuple[dict[bytes, list[int]], ...] = ({}, {})
    for rows in scale.rows:
        for group, result in zip(groups, _both(model, _Inputs.of(model, range(rows))), strict=True):
            group.setdefault(result.bits(0), []).append(rows)
    for kind, group in zip(("reading", "writing"), groups, strict=True):
        found = " | ".join(" ".join(map(str, each)) for each in group.values())
        yield Finding(f"rows of the same bits, {kind}, {subject.name}", found)
    rows = scale.rows[-2]
    order = [*range(3 * rows, 2 * rows + 1, -1), 0]
    straight, turned = (_both(model, _Inputs.of(model, order)) for order in (range(len(order)), order))
    same = all(a.bits(0) == b.bits(len(order) - 1) for a, b in zip(straight, turned, strict=True))
    yield Finding(f"same bits in another place, {subject.name}", str(same), passed=same)


def start_up_check(scale: Scale) -> Iterator[Finding]:
    """Run the server's own check, with all buckets and with one."""
    for subject in [Subject("lstm", *scale.middle, weights) for weights in ("float16", "float32")]:
        for buckets in (scale.buckets, scale.buckets[len(scale.buckets) // 2 :][:1]):
            model = subject.on_device(scale, buckets)
            difference = check_device(model, subject.on_cpu())
            found = check(model)
            kind = "any bucket" if len(buckets) > 1 else f"bucket {buckets[0]} alone"
            must = None if len(buckets) > 1 else found.reproducible
            note = f"within {difference:.1e} nats of the CPU"
            yield Finding(f"independent of company, {kind}, {subject.name}", str(found.reproducible), "", must, note)


def alone_and_together(scale: Scale) -> Iterator[Finding]:
    """Run streams together, and each by itself."""
    for subject in [Subject("lstm", *scale.middle, weights) for weights in ("float16", "float32")]:
        for buckets in (scale.buckets, scale.buckets[len(scale.buckets) // 2 :][:1]):
            model = subject.on_device(scale, buckets)
            together = _texts(model, [sequence(model, number) for number in range(scale.alone)])
            alone = [_texts(model, [sequence(model, number)])[0] for number in range(scale.alone)]
            same = sum(a == b for a, b in zip(together, alone, strict=True)) / scale.alone
            kind = "any bucket" if len(buckets) > 1 else f"bucket {buckets[0]} alone"
            must = None if len(buckets) > 1 else same == 1
            yield Finding(f"streams the same alone as with {scale.alone}, {kind}, {subject.name}", same, passed=must)


def _texts(model: Model, sequences: list[Sequence]) -> list[tuple[list[int], list[float]]]:
    """Return what sequences write and score when they run together."""
    return [_joined(outputs) for outputs in run_together(model, sequences, _TICK)]


def _joined(outputs: list[StepOutput]) -> tuple[list[int], list[float]]:
    """Return the symbols that a sequence wrote, and its log-probabilities."""
    written = chain.from_iterable(output.written.tolist() for output in outputs)
    return list(written), list(chain.from_iterable(output.log_probabilities.tolist() for output in outputs))


def across_devices(scale: Scale) -> Iterator[Finding]:
    """Continue on the CPU from a state of the device, and back."""
    for weights in ("float32", "float16"):
        subject = Subject("lstm", *scale.middle, weights)
        ours, cpu = subject.on_device(scale), subject.on_cpu()
        whole, _ = _continued(cpu, None, 96)
        text, state = list[int](), None
        for model in (ours, cpu, ours):
            part, state = _continued(model, state, 32)
            text += part
        agrees = float(np.mean(np.array(text) == np.array(whole)))
        yield Finding(f"symbols of a text begun on one device and continued on another, {subject.name}", agrees)


def _continued(model: Model, state: State | None, writes: int) -> tuple[list[int], State]:
    begun = sequence(model, 5, writes=writes)
    if state is not None:
        begun = Sequence(state, begun.prefill_ids[:0], writes)
    (outputs,) = run_together(model, [begun], _TICK)
    last = outputs[-1].state
    assert last is not None
    return _joined(outputs)[0], last
