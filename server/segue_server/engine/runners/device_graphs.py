"""The graphs of one model on a device: of each kind, for a few numbers of steps, with the gates apart or together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from segue_export.graphs.reading import Result, reading_graph
from segue_export.graphs.step import Step
from segue_export.graphs.writing import WritingVariant, writing_graph

from segue_server.engine.runners.accelerator import Accelerator
from segue_server.engine.runners.bound_session import BoundSession
from segue_server.engine.runners.pools import Pools
from segue_server.engine.symbols import Symbols

LENGTHS: Final = (32, 8, 1)
"""Steps of a run: any number is a sum of these. CUDA cannot record a Concat of more than 32 inputs."""

_MOST_ROWS_TOGETHER: Final = 256
"""Rows up to which the gates of an LSTM are computed in one product. With few, launching nodes takes most of the time;
with many, taking the product apart takes longer than four products."""


@dataclass(frozen=True)
class ReadingKind:
    """What a graph that reads does beyond scoring."""

    ragged: bool
    """Rows have different lengths."""
    ranked: int = 0
    """How many alternatives it returns, with ranks; 0: neither."""


Kind = ReadingKind | WritingVariant

USUAL: Final[tuple[Kind, ...]] = (
    *(ReadingKind(ragged) for ragged in (False, True)),
    *(WritingVariant(filtered, scored) for filtered, scored in product((False, True), repeat=2)),
)
"""What most requests use."""


class DeviceGraphs:
    """Loads each graph when it is first used."""

    def __init__(
        self, make_step: Callable[[bool], Step], symbols: Symbols, accelerator: Accelerator, pools: Pools
    ) -> None:
        """`make_step`: makes a step, with gates together or not."""
        apart, together = make_step(False), make_step(True)
        self._steps = {False: apart, True: together} if together.together else {False: apart}
        self._symbols, self._accelerator, self._pools = symbols, accelerator, pools
        self._sessions: dict[tuple[Kind, int, bool], BoundSession] = {}

    def load(self, buckets: Iterable[int]) -> None:
        """Load what most requests use. Raises StartupError."""
        for kind, length, bucket in product(USUAL, LENGTHS, buckets):
            self.session(kind, length, bucket)

    def session(self, kind: Kind, length: int, bucket: int) -> BoundSession:
        """Return the graph of `length` steps for `bucket` rows."""
        key = (kind, length, True in self._steps and bucket <= _MOST_ROWS_TOGETHER)
        if key not in self._sessions:
            self._sessions[key] = self._open(*key)
        return self._sessions[key]

    def _open(self, kind: Kind, length: int, together: bool) -> BoundSession:
        step = self._steps[together]
        if isinstance(kind, ReadingKind):
            result = Result.IN_DETAIL if kind.ranked else Result.OF_TARGETS
            graph = reading_graph(step, ragged=kind.ragged, unrolled=length, ranked=kind.ranked, result=result)
            sizes = {"time": length, "ranked": kind.ranked}
        else:
            graph = writing_graph(step, replace(kind, unrolled=length), self._symbols.automaton)
            sizes = {"steps": length, "ranks": kind.ranked}
        return BoundSession(graph, self._accelerator, self._pools, sizes)
