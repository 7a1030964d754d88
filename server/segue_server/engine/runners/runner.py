"""What an engine needs of a model's arithmetic: four operations on rows of states, wherever these are kept."""

# Shape suffixes: L layers, B rows, T symbols read, K symbols written, H hidden, A alternatives.

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segue_server.engine.sampling import Floats32, Ids, SamplingRows


class Rows(Protocol):
    """The states of B rows, in the keeping of a runner. A value: nothing changes it."""

    def __len__(self) -> int: ...

    def take(self, at: Ids) -> "Rows":
        """Return the states of some rows."""

    def join(self, other: Any) -> "Rows":
        """Return these states and those of `other`, of the same runner."""


@dataclass(frozen=True)
class Reading:
    """Symbols to read in each of B rows, and to score."""

    tokens_TB: Ids
    targets_TB: Ids
    length_B: Ids
    """Each row reads the first `length_B` of its tokens."""
    alternatives: int | None = None
    """Return ranks too, and this many of the likeliest symbols, or all if there are fewer. The log-probabilities have
    the same bits with and without."""


@dataclass(frozen=True)
class Writing:
    """K symbols to write in each of B rows."""

    token_B: Ids
    """The last symbol, which is not read yet."""
    spelling_B: Ids
    """The state of the automaton of `symbols`."""
    sampling: SamplingRows
    uniform_KB: Floats32
    filtered: bool
    """Whether the samplings filter, of all rows alike."""
    scored: bool
    """Whether to return log-probabilities."""
    alternatives: int = 0
    """Return them, and this many of the likeliest symbols at each step, or all if there are fewer."""


@dataclass(frozen=True)
class Likeliest:
    """The likeliest symbols but `<unk>` at each of K or T steps, likeliest first; of equals, the lowest id first."""

    ids_KBA: Ids
    log_probabilities_KBA: Floats32


@dataclass(frozen=True)
class ReadResult:
    """What reading T symbols in each of B rows gave."""

    rows: Rows
    """After each row's last symbol."""
    finite_B: NDArray[np.bool_]
    """Whether all numbers of the state are finite."""
    log_probabilities_TB: Floats32
    """Of the targets; without meaning after a row's last symbol."""
    ranks_TB: Ids | None = None
    """How many symbols are likelier than each target, plus 1; None unless asked for."""
    likeliest: Likeliest | None = None


@dataclass(frozen=True)
class WriteResult:
    """What B rows wrote in K steps."""

    rows: Rows
    """Before the last symbol is read."""
    finite_B: NDArray[np.bool_]
    """Whether all numbers of the state are finite."""
    ids_KB: Ids
    spelling_B: Ids
    """The state of the automaton of `symbols` after the last symbol."""
    log_probabilities_KB: Floats32 | None
    """Of the symbols, under the model itself; None unless asked for."""
    likeliest: Likeliest | None = None


@dataclass(frozen=True)
class Capacity:
    """How many rows and symbols a run should have, and what its steps cost."""

    rows: int
    """Of a run that writes, at most."""
    prefill_rows: int
    """Of a run that reads, at most."""
    prefill_symbols: int
    """Of all rows of a run that reads, at most: that limits the memory of its results."""
    detailed_symbols: int
    """The same of a run that returns ranks and alternatives."""
    step_rows: int
    """What a step costs in addition to its rows, in rows."""
    run_cost: int
    """What a run that reads costs in addition to its steps, in rows of a step."""
    sizes: tuple[int, ...]
    """Numbers of rows for which runs may round in other ways, if any do."""
    on_device: bool
    """Whether a run leaves the CPU to others, and its thread only waits."""


class Runner(Protocol):
    """Runs a model's steps. Its methods may be called from one thread at a time.

    What a row gets depends on that row alone: see `self_check`.
    """

    capacity: Capacity

    def scatter(self, h_LBH: Floats32, c_LBH: Floats32) -> Rows:
        """Take states into the runner's keeping."""

    def gather(self, rows: Any) -> tuple[Floats32, Floats32]:
        """Return states as arrays [L, B, H]; h and c."""

    def read(self, rows: Any, reading: Reading) -> ReadResult:
        """Read on from the states `rows`."""

    def write(self, rows: Any, writing: Writing) -> WriteResult:
        """Write on from the states `rows`."""
