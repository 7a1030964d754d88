"""Steps on the CPU: states are arrays, and each run is a loop of any length."""

# Shape suffixes: L layers, B rows, H hidden, V vocabulary.

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from segue_export.graphs.reading import Result, reading_graph
from segue_export.graphs.step import Step
from segue_export.graphs.writing import WritingVariant, writing_graph

from segue_server.engine.runners.onnx_session import CPU, Arrays, Given, give, open_session
from segue_server.engine.runners.runner import Capacity, Likeliest, Reading, ReadResult, WriteResult, Writing
from segue_server.engine.sampling import Floats32, Ids
from segue_server.engine.symbols import Symbols

STEP_ROWS: Final = 8
"""What a step costs in addition to its rows, in rows."""
RUN_COST: Final = 64
"""What a run that reads costs in addition to its steps, in rows of a step."""

_SIZES: Final = (2, 7, 256)
_FEWEST_ROWS: Final = 64
"""Of a full decode batch: a wide layer's products gain nothing from more."""
_MOST_ROWS: Final = 256
"""A narrow layer's products gain little from more, and the batch still fits into a core's cache."""
_PRODUCTS: Final = 2**26
"""Multiplications of a step that are worth another row: with a wide model, ticks of many steps stay short."""
PREFILL_ROWS: Final = 128
"""Of a run that reads, at most."""
PREFILL_SYMBOLS: Final = 2**14
"""Of all rows of a run that reads, at most."""
_MOST_SCORES: Final = 2**21
"""Of all symbols, at all steps of a run that reads, or at one step of a run that writes: with a large vocabulary they
are what takes memory, and further rows gain nothing."""


@dataclass(frozen=True)
class ArrayRows:
    """States as arrays."""

    h_LBH: Floats32
    c_LBH: Floats32

    def __len__(self) -> int:
        return int(self.h_LBH.shape[1])

    def take(self, at: Ids) -> "ArrayRows":
        """Return the states of some rows."""
        return ArrayRows(self.h_LBH[:, at], self.c_LBH[:, at])

    def join(self, other: "ArrayRows") -> "ArrayRows":
        """Return these states and those of `other`."""
        return ArrayRows(
            np.concatenate([self.h_LBH, other.h_LBH], axis=1), np.concatenate([self.c_LBH, other.c_LBH], axis=1)
        )


class ArrayRunner:
    """Runs steps on the CPU."""

    def __init__(self, step: Step, symbols: Symbols, threads: int) -> None:
        """Load the graphs; raises StartupError. `threads`: how many of the host's cores one step may use."""
        self._step, self._symbols, self._threads = step, symbols, threads
        self._vocabulary = len(step.manifest.vocabulary)
        self.capacity = _capacity(step.manifest.layers, step.manifest.hidden, self._vocabulary)
        self._given = give(step.given)
        self._even, self._ragged = (self._reading_loop(ragged=ragged) for ragged in (False, True))
        self._writing = {
            WritingVariant(filtered, scored): self._writing_loop(WritingVariant(filtered, scored))
            for filtered in (False, True)
            for scored in (False, True)
        }

    def scatter(self, h_LBH: Floats32, c_LBH: Floats32) -> ArrayRows:
        """Take states into the runner's keeping."""
        return ArrayRows(h_LBH, c_LBH)

    def gather(self, rows: ArrayRows) -> tuple[Floats32, Floats32]:
        """Return states as arrays [L, B, H]; h and c."""
        return rows.h_LBH, rows.c_LBH

    def read(self, rows: ArrayRows, reading: Reading) -> ReadResult:
        """Read on from the states `rows`."""
        steps = len(reading.tokens_TB)
        feed: dict[str, Any] = {"h": rows.h_LBH, "c": rows.c_LBH}
        loop = self._even
        if reading.alternatives is not None:
            loop, feed["alternatives"] = self._detailed, self._ranked(reading.alternatives)
        elif (reading.length_B < steps).any():
            loop = self._ragged
        if loop is not self._even:
            feed["length"] = reading.length_B[:, np.newaxis]
        outputs = loop.run(steps, feed | {"tokens": reading.tokens_TB, "targets": reading.targets_TB})
        after, scores = ArrayRows(outputs["h_out"], outputs["c_out"]), outputs["log_probabilities"]
        if reading.alternatives is None:
            return ReadResult(after, _finite(after), scores)
        return ReadResult(after, _finite(after), scores, outputs["ranks"], _likeliest(outputs))

    def write(self, rows: ArrayRows, writing: Writing) -> WriteResult:
        """Write on from the states `rows`."""
        sampling, alternatives = writing.sampling, writing.alternatives
        feed: dict[str, Any] = {
            "token": writing.token_B,
            "h": rows.h_LBH,
            "c": rows.c_LBH,
            "uniform": writing.uniform_KB[:, :, np.newaxis],
            "inverse_temperature": sampling.inverse_temperature_B1,
            "bias": sampling.bias,
        }
        if writing.filtered:
            feed |= {"top_k": sampling.top_k_B1, "top_p": sampling.top_p_B1, "min_p": sampling.min_p_B1}
        if not self._symbols.single:
            feed["spelling"] = writing.spelling_B
        if alternatives:
            feed["alternatives"] = self._ranked(alternatives)
        loop = self._writing_for(WritingVariant(writing.filtered, writing.scored or alternatives > 0, alternatives > 0))
        outputs = loop.run(len(writing.uniform_KB), feed)
        after = ArrayRows(outputs["h_out"], outputs["c_out"])
        return WriteResult(
            after,
            _finite(after),
            outputs["ids"],
            outputs.get("spelling_out", writing.spelling_B),
            outputs.get("log_probabilities"),
            _likeliest(outputs) if alternatives else None,
        )

    def _ranked(self, alternatives: int) -> Ids:
        return np.array([min(alternatives, self._vocabulary - 1)])

    def _writing_for(self, variant: WritingVariant) -> "_Loop":
        """Load what is rarely used when it is first used."""
        if variant not in self._writing:
            self._writing[variant] = self._writing_loop(variant)
        return self._writing[variant]

    @cached_property
    def _detailed(self) -> "_Loop":
        """Loaded on first use: it is rarely used and takes as much memory as any other."""
        return self._reading_loop(ragged=True, result=Result.IN_DETAIL)

    def _reading_loop(self, *, ragged: bool, result: Result = Result.OF_TARGETS) -> "_Loop":
        return _Loop(reading_graph(self._step, ragged=ragged, result=result), self._threads, self._given)

    def _writing_loop(self, variant: WritingVariant) -> "_Loop":
        return _Loop(writing_graph(self._step, variant, self._symbols.automaton), self._threads, self._given)


class _Loop:
    """A graph of any number of steps."""

    def __init__(self, graph: bytes, threads: int, given: Given) -> None:
        self._session = open_session(graph, CPU, threads, given)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, steps: int, feed: Mapping[str, NDArray[Any]]) -> Arrays:
        return dict(
            zip(self._outputs, self._session.run(self._outputs, {"steps": np.array(steps), **feed}), strict=True)
        )


def _finite(rows: ArrayRows) -> NDArray[np.bool_]:
    """Return whether all numbers of each state are finite."""
    if np.isfinite(rows.h_LBH).all() and np.isfinite(rows.c_LBH).all():
        return np.ones(len(rows), dtype=np.bool_)
    return np.asarray(np.isfinite(rows.h_LBH).all(axis=(0, 2)) & np.isfinite(rows.c_LBH).all(axis=(0, 2)))


def _likeliest(outputs: Arrays) -> Likeliest:
    return Likeliest(outputs["likeliest"], outputs["likeliest_log_probabilities"])


def _capacity(layers: int, hidden: int, vocabulary: int) -> Capacity:
    products = 4 * hidden**2 * (2 * layers - 1)
    rows = max(_FEWEST_ROWS, min(_MOST_ROWS, _PRODUCTS // products))
    rows = max(1, min(rows, _MOST_SCORES // vocabulary))
    symbols = min(PREFILL_SYMBOLS, _MOST_SCORES // vocabulary)
    return Capacity(
        rows=rows,
        prefill_rows=PREFILL_ROWS,
        prefill_symbols=symbols,
        detailed_symbols=symbols,
        step_rows=STEP_ROWS,
        run_cost=RUN_COST,
        sizes=tuple(min(size, max(rows, PREFILL_ROWS)) for size in _SIZES),
        on_device=False,
    )
