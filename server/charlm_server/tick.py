"""One tick of sequences that write: which character each row takes at each step, and where each row ends."""

# Shape suffixes: B rows (sequences of the tick), K steps of the tick, V characters of the vocabulary.

from typing import Final

import numpy as np
from numpy.typing import NDArray

from charlm_server.random_numbers import uniforms
from charlm_server.sampling import Floats, Ids, SamplingRows, choose, finite_rows, log_probabilities
from charlm_server.sequence import Advance, Finish, Sequence

_FREE: Final = -1
"""Stands in the table of forced ids where the character is to be chosen."""


class WritingTick:
    """The characters of B sequences over up to K steps: forced as long as there are any, then chosen.

    A row ends within the tick at its own step: by its budget, a stop string, or a fault. What the matrix products
    compute for it after that is thrown away.
    """

    def __init__(self, sequences: list[Sequence], steps: int) -> None:
        self._sequences = sequences
        self._rows = SamplingRows([sequence.sampling for sequence in sequences])
        self._forced_BK = np.full((len(sequences), steps), _FREE)
        for row, sequence in enumerate(sequences):
            self._forced_BK[row, : len(sequence.forced)] = sequence.forced
        self._ends_B = np.array([min(steps, sequence.remaining) for sequence in sequences])
        self._uniform_BK = _uniforms(sequences, steps)
        self._ids_BK = np.zeros((len(sequences), steps), dtype=np.int64)
        self._scored = np.array([row for row, s in enumerate(sequences) if s.score_forced or s.score_free], dtype=int)
        self._log_probability_BK = np.zeros((len(sequences), steps))
        self._stopping = [row for row, sequence in enumerate(sequences) if sequence.stops]
        self._finish: dict[int, Finish] = {}
        self._stop: dict[int, int] = {}

    @property
    def length(self) -> int:
        """How many steps are needed until every row has ended."""
        return int(self._ends_B.max())

    def take(self, step: int, logits_BV: NDArray[np.float32]) -> Ids:
        """Decide the character of each row at `step` and return the ids [B]."""
        forced_B = self._forced_BK[:, step]
        free_B = forced_B == _FREE
        ids_B = forced_B
        if free_B.any():
            ids_B = np.where(free_B, choose(logits_BV, self._rows, self._uniform_BK[:, step]), forced_B)
        self._ids_BK[:, step] = ids_B
        if len(self._scored):
            scores = log_probabilities(logits_BV[self._scored], ids_B[self._scored])
            self._log_probability_BK[self._scored, step] = scores
        self._end_faulty_rows(step, logits_BV)
        self._end_stopped_rows(step, free_B)
        return ids_B

    def ending(self, steps: int) -> list[int]:
        """Return the rows that are through with this tick after `steps` steps."""
        rows: list[int] = np.flatnonzero(self._ends_B == steps).tolist()
        return rows

    def advances(self) -> list[Advance]:
        """Take what was read and written from each sequence's due and return what happened to it."""
        return [self._advance(row) for row in range(len(self._sequences))]

    def _advance(self, row: int) -> Advance:
        sequence, end = self._sequences[row], int(self._ends_B[row])
        read = min(len(sequence.forced), end)
        sequence.forced = sequence.forced[read:]
        sequence.budget -= end - read
        scored_from = 0 if sequence.score_forced else read
        scored_to = end if sequence.score_free else read
        finish = self._finish.get(row, None if sequence.remaining else Finish.LENGTH)
        return Advance(
            sequence,
            self._ids_BK[row, read:end].copy(),
            self._log_probability_BK[row, scored_from:scored_to].copy(),
            sequence.state,
            finish,
            self._stop.get(row),
        )

    def _end_faulty_rows(self, step: int, logits_BV: NDArray[np.float32]) -> None:
        """End the rows whose logits are not finite: they keep the state that they brought, and give nothing."""
        finite_B = finite_rows(logits_BV)
        if finite_B.all():
            return
        for row in np.flatnonzero(~finite_B & (self._ends_B > step)).tolist():
            self._ends_B[row] = 0
            self._finish[row] = Finish.FAULT

    def _end_stopped_rows(self, step: int, free_B: NDArray[np.bool_]) -> None:
        for row in self._stopping:
            if not free_B[row] or self._ends_B[row] <= step:
                continue
            stop = self._sequences[row].stops.complete(int(self._ids_BK[row, step]))
            if stop is not None:
                self._ends_B[row] = step + 1
                self._finish[row], self._stop[row] = Finish.STOP, stop


def _uniforms(sequences: list[Sequence], steps: int) -> Floats:
    """Return the random numbers [B, K] of the next `steps` positions of each sequence."""
    seed_B1 = np.array([[sequence.state.seed] for sequence in sequences], dtype=np.uint64)
    position_B1 = np.array([[sequence.state.position] for sequence in sequences], dtype=np.uint64)
    step_K: NDArray[np.uint64] = np.arange(steps, dtype=np.uint64)
    return uniforms(seed_B1, np.add(position_B1, step_K, dtype=np.uint64))
