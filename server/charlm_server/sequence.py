"""A running request inside the engine: its state, what it still has to read, and what it may still write."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from charlm_server.sampling import Floats, Ids, Sampling


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the next symbol depends on, apart from the model and the sampling settings.

    (h, c) is the recurrent state before `last` is read: `last` is the input of the next step. So the state after
    a symbol is known as soon as the symbol is, and the first symbol of a part can be scored.
    """

    h: NDArray[np.float32]
    """[layers, hidden]; each value in [-1, 1]."""
    c: NDArray[np.float32]
    """[layers, hidden]; no value beyond `position`, since a step adds at most 1."""
    last: int
    """The id of the last symbol."""
    position: int
    """How many symbols are behind this state, `last` included."""
    seed: int
    """Of the random numbers, 0 to 2^64 - 1."""

    @classmethod
    def after_first(cls, first: int, shape: tuple[int, int], seed: int) -> "State":
        """Return the zero state of `shape` (layers, hidden) with the first symbol of a text, which nothing predicts."""
        zeros = np.zeros(shape, dtype=np.float32)
        return cls(zeros, zeros, first, 1, seed)


class Finish(Enum):
    """Why a sequence ended."""

    LENGTH = auto()
    """It read and wrote all that it was to."""
    STOP = auto()
    """A stop string is complete."""
    END = auto()
    """It wrote the end of a document."""
    DRAINED = auto()
    """The engine is being emptied; the state continues elsewhere."""
    FAULT = auto()
    """Its logits are not finite numbers; only this sequence ends."""


class StopStrings:
    """Recognizes the first of several strings to be completed by a stream of ids."""

    def __init__(self, stops: Items[tuple[int, ...]] = ()) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._tail: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._stops)

    def complete(self, symbol: int) -> int | None:
        """Take the next id; return the index of the stop string that it completes, or None."""
        self._tail = (*self._tail, symbol)[-self._longest :]
        ends = (i for i, stop in enumerate(self._stops) if self._tail[-len(stop) :] == stop)
        return next(ends, None)


@dataclass(eq=False, slots=True)
class Sequence:
    """One request in the engine: first reads `forced`, then writes up to `budget` characters of its own.

    Only the state that a text begins with may be within a character, the first one; its rest is in `forced`. The
    symbol that ends a document can only be the last of `forced`, with no budget after it.
    """

    state: State
    forced: Ids
    """Ids still to be read. The engine takes them from the front."""
    budget: int = 0
    """How many characters it may still write."""
    sampling: Sampling = field(default_factory=Sampling)
    stops: StopStrings = field(default_factory=StopStrings)
    score_forced: bool = False
    """Whether to return the log-probabilities of the characters it reads."""
    score_free: bool = False
    """Whether to return the log-probabilities of the characters it writes."""

    def __post_init__(self) -> None:
        if len(self.forced) + self.budget < 1:
            raise ValueError("a sequence needs a symbol to read or a character to write")

    @property
    def remaining(self) -> int:
        """How many symbols it still has to read, and characters it may write."""
        return len(self.forced) + self.budget


@dataclass(frozen=True, slots=True)
class Advance:
    """What one tick did for one sequence."""

    sequence: Sequence
    written: Ids
    """The symbols that it wrote: whole characters."""
    log_probabilities: Floats
    """One for each character read and written, as far as the sequence asks for them."""
    state: State
    """The state after the last of these characters, or the one that it brought."""
    finish: Finish | None = None
    """Set with the last advance of a sequence."""
    stop: int | None = None
    """Which stop string ended it."""
