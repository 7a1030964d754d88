"""The rows that sequences borrow while they write: what is kept of each from tick to tick."""

# Shape suffixes: B rows, P positions, L layers, H hidden.

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segue_server.engine.model import Model
from segue_server.engine.random_numbers import WORDS, uniforms
from segue_server.engine.runners.runner import Rows
from segue_server.engine.sampling import Floats32, Ids
from segue_server.engine.sequence import Sequence, State

DRAWN: Final = 256 + WORDS
"""Random numbers drawn at once for a row: several ticks of a usual length, wherever in a block of words it begins."""

LONGEST_TICK: Final = DRAWN - WORDS
"""Steps for which one draw always suffices, wherever in a block of words it begins."""


@dataclass
class DecodeRows:
    """The rows of a batch: a state and settings of each, and the next of its random numbers."""

    states: Rows
    token_B: Ids
    seed_B: NDArray[np.uint64]
    position_B: Ids
    left_B: Ids
    """Characters that each row may still write, including the one that it is in."""
    spelling_B: Ids
    uniform_BP: Floats32
    drawn_from_B: Ids
    """The position of the first uniform of each row."""
    scored_B: NDArray[np.bool_]
    stopping_B: NDArray[np.bool_]
    """Whether a row has stop strings."""

    @classmethod
    def of(cls, model: Model, sequences: list[Sequence]) -> "DecodeRows":
        """Return a row for each of `sequences`."""
        states = [sequence.state for sequence in sequences]
        position_B = np.array([state.position for state in states], dtype=np.int64)
        return cls(
            model.scatter(np.stack([s.h for s in states], axis=1), np.stack([s.c for s in states], axis=1)),
            np.array([state.last for state in states], dtype=np.int64),
            np.array([state.seed for state in states], dtype=np.uint64),
            position_B,
            np.array([sequence.max_characters for sequence in sequences], dtype=np.int64),
            np.array([sequence.spelling for sequence in sequences], dtype=np.int64),
            np.empty((len(states), DRAWN), dtype=np.float32),
            position_B - DRAWN,
            np.array([sequence.scored for sequence in sequences], dtype=np.bool_),
            np.array([bool(sequence.stops) for sequence in sequences], dtype=np.bool_),
        )

    def join(self, other: "DecodeRows") -> None:
        """Append the rows of `other`."""
        self.states = self.states.join(other.states)
        for name in _PER_ROW:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))

    def keep(self, rows: Ids) -> None:
        """Drop all rows but these."""
        self.states = self.states.take(rows)
        for name in _PER_ROW:
            setattr(self, name, getattr(self, name)[rows])

    def short(self, position_B: Ids, steps: int) -> Ids:
        """Return the rows whose random numbers do not suffice for `steps` steps from `position_B` on."""
        return np.flatnonzero(position_B + steps > self.drawn_from_B + DRAWN)

    def draw(self, rows: Ids, position_B: Ids) -> tuple[Ids, Floats32]:
        """Return the positions from which numbers are drawn for some rows, and the numbers."""
        start = position_B[rows] // WORDS * WORDS
        return start, uniforms(self.seed_B[rows], start.astype(np.uint64), DRAWN)

    def keep_draws(self, rows: Ids, start: Ids, drawn: Floats32) -> None:
        """Keep what `draw` returned instead of earlier numbers."""
        self.drawn_from_B[rows], self.uniform_BP[rows] = start, drawn

    def states_of(self, rows: list[int], model: Model) -> list[State]:
        """Return the states of rows that have not ended, so that their last symbols end no documents."""
        if not rows:
            return []
        h_LBH, c_LBH = model.gather(self.states.take(np.array(rows)))
        return [
            State.of_row(
                h_LBH[:, i],
                c_LBH[:, i],
                last=int(self.token_B[row]),
                position=int(self.position_B[row]),
                seed=int(self.seed_B[row]),
                end=None,
            )
            for i, row in enumerate(rows)
        ]


_PER_ROW: Final = tuple(value.name for value in fields(DecodeRows) if value.name != "states")
