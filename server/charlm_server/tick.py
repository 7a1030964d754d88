"""One tick of sequences that write: which symbol each row takes at each step, and where each row ends."""

# Shape suffixes: B rows (sequences of the tick), K steps of the tick, V symbols of the vocabulary.

from typing import Final

import numpy as np
from numpy.typing import NDArray

from charlm_server.random_numbers import uniforms
from charlm_server.sampling import Floats, Ids, SamplingRows, choose, finite_rows, log_probabilities
from charlm_server.sequence import Advance, Finish, Sequence
from charlm_server.symbols import Spelling, Symbols

_FREE: Final = -1
"""Stands in the table of forced ids where the symbol is to be chosen."""


class WritingTick:
    """The symbols of B sequences over about K steps: forced as long as there are any, then chosen.

    A row ends within the tick at its own step: by its budget, a stop string, the end of a document, or a fault.
    Otherwise it ends after `steps`, or with the character that it is in then. What the matrix products compute for
    it after that is thrown away.
    """

    def __init__(self, sequences: list[Sequence], symbols: Symbols, steps: int) -> None:
        self._sequences = sequences
        self._symbols = symbols
        self._steps = steps
        rows, columns = len(sequences), steps + symbols.longest - 1
        self._sampling = SamplingRows([sequence.sampling for sequence in sequences])
        self._spelling = Spelling(symbols, rows)
        self._forced_BK = np.full((rows, columns), _FREE)
        for row, sequence in enumerate(sequences):
            self._forced_BK[row, : len(sequence.forced)] = sequence.forced
        self._ends_B = np.array([min(steps, sequence.remaining) for sequence in sequences])
        self._uniform_BK = _uniforms(sequences, columns)
        self._ids_BK = np.zeros((rows, columns), dtype=np.int64)
        self._scored = np.array([row for row, s in enumerate(sequences) if s.score_forced or s.score_free], dtype=int)
        self._log_probability_BK = np.zeros((rows, columns))
        self._stopping = [row for row, sequence in enumerate(sequences) if sequence.stops]
        self._finish: dict[int, Finish] = {}
        self._stop: dict[int, int] = {}

    @property
    def length(self) -> int:
        """How many steps are needed until every row has ended."""
        return int(self._ends_B.max())

    def take(self, step: int, logits_BV: NDArray[np.float32]) -> Ids:
        """Decide the symbol of each row at `step` and return the ids [B]."""
        forced_B = self._forced_BK[:, step]
        free_B = forced_B == _FREE
        ids_B = forced_B
        if free_B.any():
            chosen_B = choose(logits_BV, self._spelling.barred, self._sampling, self._uniform_BK[:, step])
            ids_B = np.where(free_B, chosen_B, forced_B)
        self._ids_BK[:, step] = ids_B
        self._spelling.take(ids_B, free_B)
        if len(self._scored):
            scores = log_probabilities(logits_BV[self._scored], ids_B[self._scored])
            self._log_probability_BK[self._scored, step] = scores
        self._end_faulty_rows(step, logits_BV)
        self._end_stopped_rows(step, free_B)
        self._end_finished_documents(step, free_B)
        self._put_off_ends(step + 1)
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
        written = self._ids_BK[row, read:end].copy()
        sequence.budget -= self._symbols.count(written)
        scored = slice(0 if sequence.score_forced else read, end if sequence.score_free else read)
        finish = self._finish.get(row, None if sequence.remaining else Finish.LENGTH)
        return Advance(
            sequence,
            written,
            self._symbols.by_character(self._log_probability_BK[row, scored].copy(), self._ids_BK[row, scored]),
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

    def _end_finished_documents(self, step: int, free_B: NDArray[np.bool_]) -> None:
        if self._symbols.end is None:
            return
        ended_B = free_B & (self._ids_BK[:, step] == self._symbols.end) & (self._ends_B > step)
        for row in np.flatnonzero(ended_B).tolist():
            self._ends_B[row] = step + 1
            self._finish[row] = Finish.END
            self._stop.pop(row, None)

    def _put_off_ends(self, steps: int) -> None:
        """Let the rows that were to end after `steps` steps go on, where a character may take several.

        Ends are planned as if each character took one symbol. A row goes on to the end of the character that it is in
        and then, while the tick lasts, for the characters that it still may write.
        """
        if self._symbols.single:
            return
        for row in self.ending(steps):
            if row in self._finish:
                continue
            sequence = self._sequences[row]
            end = steps + self._spelling.missing(row)
            begun = self._symbols.count(self._ids_BK[row, len(sequence.forced) : steps])
            self._ends_B[row] = end + max(0, min(self._steps - end, sequence.budget - begun))


def _uniforms(sequences: list[Sequence], steps: int) -> Floats:
    """Return the random numbers [B, K] of the next `steps` positions of each sequence."""
    seed_B1 = np.array([[sequence.state.seed] for sequence in sequences], dtype=np.uint64)
    position_B1 = np.array([[sequence.state.position] for sequence in sequences], dtype=np.uint64)
    step_K: NDArray[np.uint64] = np.arange(steps, dtype=np.uint64)
    return uniforms(seed_B1, np.add(position_B1, step_K, dtype=np.uint64))
