"""Steps on a device: states stay in its pools, and only symbols, random numbers, settings and results cross.

Rows are filled up to a bucket, one of a few numbers of rows, and steps are divided into runs of a few lengths: so a few
graphs, recorded once, serve every batch.
"""

# Shape suffixes: L layers, B rows, T symbols read, K symbols written, H hidden, V vocabulary, A alternatives.

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from segue_export.graphs.step import Step
from segue_export.graphs.unrolled import giving_graph, taking_graph
from segue_export.graphs.writing import WritingVariant
from segue_export.manifest import Manifest

from segue_server.engine.runners.accelerator import Accelerator
from segue_server.engine.runners.bound_session import BoundSession
from segue_server.engine.runners.device_graphs import LENGTHS, DeviceGraphs, Kind, ReadingKind
from segue_server.engine.runners.onnx_session import Arrays
from segue_server.engine.runners.pools import PoolRows, Pools, joined_parts, parts_of
from segue_server.engine.runners.runner import Capacity, Likeliest, Reading, ReadResult, WriteResult, Writing
from segue_server.engine.sampling import Floats32, SamplingRows
from segue_server.engine.symbols import Symbols

_STEP_ROWS: Final = 1024
"""What a step costs in addition to its rows, in rows: with fewer, launching its kernels takes most of its time."""
_RUN_COST: Final = 16 * _STEP_ROWS
"""What a run that reads costs in addition to its steps, in rows of a step: most of it is spent on the host."""
_PREFILL_SYMBOLS: Final = 2**21
_DETAILED_SYMBOLS: Final = 2**16
_MOST_SCORES: Final = 2**28
"""Of all symbols in all rows at all steps of a run, which takes 1 GiB for each array of them."""
_RANKED: Final = 20
"""Alternatives of the graph that gives a few; another gives all."""


class DeviceRunner:
    """Runs steps on a device."""

    def __init__(
        self,
        manifest: Manifest,
        make_step: Callable[[bool], Step],
        symbols: Symbols,
        accelerator: Accelerator,
        buckets: tuple[int, ...],
    ) -> None:
        """Load the graphs; raises StartupError. `make_step`: makes a step, with gates together or not."""
        self._manifest = manifest
        self._known = len(manifest.vocabulary) - 1
        most = max(buckets[0], _MOST_SCORES // (LENGTHS[0] * len(manifest.vocabulary)))
        self._buckets = tuple(bucket for bucket in buckets if bucket <= most)
        largest = self._buckets[-1]
        self.capacity = Capacity(
            rows=largest,
            prefill_rows=largest,
            prefill_symbols=_PREFILL_SYMBOLS,
            detailed_symbols=_DETAILED_SYMBOLS,
            step_rows=_STEP_ROWS,
            run_cost=_RUN_COST,
            sizes=(2, 7, *(bucket for bucket in self._buckets if bucket > 1)),
            on_device=True,
        )
        self._pools = Pools(self._manifest, accelerator, slots=3 * largest + 1)
        self._giving = BoundSession(giving_graph(self._manifest), accelerator, self._pools, {})
        self._taking = BoundSession(taking_graph(self._manifest), accelerator, self._pools, {})
        self._graphs = DeviceGraphs(make_step, symbols, accelerator, self._pools)
        self._graphs.load(self._buckets)

    def scatter(self, h_LBH: Floats32, c_LBH: Floats32) -> PoolRows:
        """Take states into the runner's keeping."""
        rows = self._pools.allocate(h_LBH.shape[1])
        for chunk in self._chunks(len(rows)):
            parts = parts_of(h_LBH[:, chunk.rows], c_LBH[:, chunk.rows], self._manifest)
            self._taking.run(chunk.bucket, {"after": rows.slots_B[chunk.rows], **parts}, chunk.count)
        return rows

    def gather(self, rows: PoolRows) -> tuple[Floats32, Floats32]:
        """Return states as arrays [L, B, H]; h and c."""
        found = [
            joined_parts(
                self._giving.run(chunk.bucket, {"before": rows.slots_B[chunk.rows]}, chunk.count), self._manifest
            )
            for chunk in self._chunks(len(rows))
        ]
        if not found:
            nothing = np.zeros((self._manifest.layers, 0, self._manifest.hidden), dtype=np.float32)
            return nothing, nothing
        h_LBH, c_LBH = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
        return h_LBH, c_LBH

    def read(self, rows: PoolRows, reading: Reading) -> ReadResult:
        """Read on from the states `rows`."""
        kind = self._reading_kind(reading)
        done = [self._read_chunk(kind, chunk, rows, reading) for chunk in self._chunks(len(rows))]
        after, outputs = _side_by_side(done)
        scores = outputs["log_probabilities"]
        if reading.alternatives is None:
            return ReadResult(after, outputs["faults"] == 0, scores)
        likeliest = _likeliest(outputs, self._counted(reading.alternatives))
        return ReadResult(after, outputs["faults"] == 0, scores, outputs["ranks"], likeliest)

    def write(self, rows: PoolRows, writing: Writing) -> WriteResult:
        """Write on from the states `rows`."""
        alternatives = self._counted(writing.alternatives)
        variant = WritingVariant(
            writing.filtered, writing.scored or alternatives > 0, alternatives > 0, ranked=self._ranked(alternatives)
        )
        done = [self._write_chunk(variant, chunk, rows, writing) for chunk in self._chunks(len(rows))]
        after, outputs = _side_by_side(done)
        return WriteResult(
            after,
            outputs["faults"] == 0,
            outputs["ids"],
            outputs.get("spelling_out", writing.spelling_B),
            outputs.get("log_probabilities"),
            _likeliest(outputs, alternatives) if alternatives else None,
        )

    def _read_chunk(
        self, kind: ReadingKind, chunk: "_Chunk", rows: PoolRows, reading: Reading
    ) -> tuple[PoolRows, Arrays]:
        texts = {"tokens": reading.tokens_TB[:, chunk.rows], "targets": reading.targets_TB[:, chunk.rows]}
        length_B1 = reading.length_B[chunk.rows, np.newaxis]

        def feed(done: int, length: int, _: Arrays) -> Arrays:
            now = {name: text[done : done + length] for name, text in texts.items()}
            return now | {"length": length_B1 - done}

        return self._run(kind, chunk, rows, len(reading.tokens_TB), feed)

    def _write_chunk(
        self, kind: WritingVariant, chunk: "_Chunk", rows: PoolRows, writing: Writing
    ) -> tuple[PoolRows, Arrays]:
        settings = _settings(writing.sampling, chunk.rows)
        uniform_KB1 = writing.uniform_KB[:, chunk.rows, np.newaxis]

        def feed(done: int, length: int, before: Arrays) -> Arrays:
            token = before["ids"][done - 1] if before else writing.token_B[chunk.rows]
            spelling = before.get("spelling_out", writing.spelling_B[chunk.rows])
            return settings | {"token": token, "spelling": spelling, "uniform": uniform_KB1[done : done + length]}

        return self._run(kind, chunk, rows, len(writing.uniform_KB), feed)

    def _run(self, kind: Kind, chunk: "_Chunk", rows: PoolRows, count: int, feed: "_Feed") -> tuple[PoolRows, Arrays]:
        """Run `count` steps, in runs of the lengths there are; return the rows and outputs."""
        before, done_so_far = rows.take(np.arange(len(rows))[chunk.rows]), dict[str, NDArray[Any]]()
        spare = [self._pools.allocate(chunk.count), self._pools.allocate(chunk.count)]
        for done, length in _runs(count):
            after = _elsewhere(before, spare)
            slots = {"before": before.slots_B, "after": after.slots_B}
            session = self._graphs.session(kind, length, chunk.bucket)
            found = session.run(chunk.bucket, feed(done, length, done_so_far) | slots, chunk.count)
            _note(done_so_far, found, done, count)
            before = after
        return before, done_so_far

    def _chunks(self, rows: int) -> Iterator["_Chunk"]:
        """Divide rows among runs, each of as many rows as the largest bucket has."""
        largest = self._buckets[-1]
        for start in range(0, rows, largest):
            count = min(largest, rows - start)
            yield _Chunk(start, count, next(bucket for bucket in self._buckets if bucket >= count))

    def _counted(self, alternatives: int) -> int:
        return min(alternatives, self._known)

    def _ranked(self, alternatives: int) -> int:
        """Return how many alternatives the graph has that gives these; 0 for none."""
        if not alternatives:
            return 0
        return min(_RANKED, self._known) if alternatives <= _RANKED else self._known

    def _reading_kind(self, reading: Reading) -> ReadingKind:
        if reading.alternatives is not None:
            return ReadingKind(ragged=True, ranked=self._ranked(max(1, self._counted(reading.alternatives))))
        return ReadingKind(ragged=bool((reading.length_B < len(reading.tokens_TB)).any()))


_Feed = Callable[[int, int, Arrays], Arrays]
"""Returns the inputs of a run: (steps done before it, its own steps, outputs of these steps) -> inputs."""


@dataclass(frozen=True)
class _Chunk:
    """Some rows that are run together."""

    start: int
    count: int
    bucket: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.count)


def _runs(steps: int) -> Iterator[tuple[int, int]]:
    """Yield the runs that have `steps` steps together: (steps before it, its own)."""
    done = 0
    while done < steps:
        length = next(length for length in LENGTHS if length <= steps - done)
        yield done, length
        done += length


def _elsewhere(before: PoolRows, spare: list[PoolRows]) -> PoolRows:
    """Return slots other than those that a run reads: recording it repeats it."""
    return next(rows for rows in spare if rows is not before)


def _settings(sampling: SamplingRows, rows: slice) -> Arrays:
    bias = sampling.bias
    return {
        "inverse_temperature": sampling.inverse_temperature_B1[rows],
        "bias": bias if len(bias) == 1 else bias[rows],
        "top_k": sampling.top_k_B1[rows],
        "top_p": sampling.top_p_B1[rows],
        "min_p": sampling.min_p_B1[rows],
    }


_OF_THE_END: Final = frozenset({"faults", "spelling_out"})
"""Outputs that hold after the last step; the others have an axis of steps."""


def _note(so_far: Arrays, found: Arrays, done: int, count: int) -> None:
    """Copy the outputs of a run that begins after `done` of `count` steps."""
    for name, value in found.items():
        if name in _OF_THE_END:
            so_far[name] = value.copy()
            continue
        if name not in so_far:
            so_far[name] = np.empty((count, *value.shape[1:]), dtype=value.dtype)
        so_far[name][done : done + len(value)] = value


def _side_by_side(chunks: list[tuple[PoolRows, Arrays]]) -> tuple[PoolRows, Arrays]:
    """Return the rows and outputs of all chunks."""
    (rows, outputs), *others = chunks
    for more, _ in others:
        rows = rows.join(more)
    if not others:
        return rows, outputs
    every = [outputs, *(more for _, more in others)]
    return rows, {
        name: np.concatenate([each[name] for each in every], axis=0 if name in _OF_THE_END else 1) for name in outputs
    }


def _likeliest(outputs: Arrays, count: int) -> Likeliest:
    return Likeliest(outputs["likeliest"][:, :, :count], outputs["likeliest_log_probabilities"][:, :, :count])
