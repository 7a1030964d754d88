"""Sequences that read: prompts, and texts to score. They share runs whatever their lengths."""

# Shape suffixes: B rows, T symbols of a run, L layers, H hidden.

from collections import deque
from collections.abc import Collection
from typing import Final

import numpy as np

from charlm_server.model import Model
from charlm_server.sampling import Floats32, Ids, quantized
from charlm_server.sequence import Sequence, State

STEP_ROWS: Final = 8
"""What a step costs beside its rows, in rows."""

_MOST_ROWS: Final = 128
_MOST_SYMBOLS: Final = 2**14
"""Of one run, which bounds what its results take."""
_RUN_COST: Final = 64
"""What a run costs beside its steps, in rows of a step."""


class Readers:
    """A queue. Whoever is not through after a run goes to its end, so that a long text holds up nobody."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._symbols = model.symbols
        self._queue: deque[Sequence] = deque()
        self.work = 0
        """What the last run cost, in rows of a step."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def sequences(self) -> Collection[Sequence]:
        """Those that read, in the order of their turns."""
        return self._queue

    def join(self, sequence: Sequence) -> None:
        """Let `sequence` read its `forced` symbols."""
        self._queue.append(sequence)

    def leave(self, leaving: list[Sequence]) -> None:
        """Forget sequences."""
        for sequence in leaving:
            self._queue.remove(sequence)

    def dissolve(self) -> list[Sequence]:
        """Let everyone leave, and return them."""
        sequences = list(self._queue)
        self._queue.clear()
        return sequences

    def read(self, most_work: int) -> tuple[list[Sequence], list[Sequence]]:
        """Do one run of about `most_work` rows of a step at most; return who is through, and who is not finite."""
        self.work = 0
        if not self._queue:
            return [], []
        sequences = [self._queue.popleft() for _ in range(min(len(self._queue), _MOST_ROWS))]
        length_B = self._lengths(sequences, most_work)
        self.work = int(length_B.max()) * (len(sequences) + STEP_ROWS) + _RUN_COST
        faulty = self._run(sequences, length_B)
        gone_on = [sequence for sequence in sequences if sequence not in faulty]
        self._queue.extend(sequence for sequence in gone_on if len(sequence.forced))
        return [sequence for sequence in gone_on if not len(sequence.forced)], faulty

    def _lengths(self, sequences: list[Sequence], most_work: int) -> Ids:
        """Return how many symbols each is to read: as long a run as pays, cut between characters."""
        rows = len(sequences) + STEP_ROWS
        longest = max(1, min(most_work // rows, _MOST_SYMBOLS // len(sequences)))
        left_B = np.minimum([len(sequence.forced) for sequence in sequences], longest)
        length_C = np.unique(left_B)
        symbols_C = np.minimum(left_B[np.newaxis], length_C[:, np.newaxis]).sum(axis=1)
        length = int(length_C[np.argmax(symbols_C / (_RUN_COST + length_C * rows))])
        return np.array([self._symbols.whole(s.forced, min(length, len(s.forced))) for s in sequences])

    def _run(self, sequences: list[Sequence], length_B: Ids) -> list[Sequence]:
        """Read; return the sequences whose results are not finite, which stay as they were."""
        targets_TB = np.zeros((length_B.max(), len(sequences)), dtype=np.int64)
        for row, (sequence, length) in enumerate(zip(sequences, length_B.tolist(), strict=True)):
            targets_TB[:length, row] = sequence.forced[:length]
        tokens_TB = np.concatenate([[[sequence.state.last for sequence in sequences]], targets_TB[:-1]])
        h_LBH = np.stack([sequence.state.h for sequence in sequences], axis=1)
        c_LBH = np.stack([sequence.state.c for sequence in sequences], axis=1)
        scores_TB, h_LBH, c_LBH = self._model.read(tokens_TB, targets_TB, length_B, h_LBH, c_LBH)
        faulty = []
        for row, (sequence, length) in enumerate(zip(sequences, length_B.tolist(), strict=True)):
            if not _finite(scores_TB[:length, row], h_LBH[:, row], c_LBH[:, row]):
                faulty.append(sequence)
                continue
            if sequence.score_forced:
                scores = quantized(scores_TB[:length, row])
                sequence.scores_read.append(self._symbols.by_character(scores, sequence.forced[:length]))
            self._move(sequence, h_LBH[:, row], c_LBH[:, row], length)
        return faulty

    def _move(self, sequence: Sequence, h_LH: Floats32, c_LH: Floats32, length: int) -> None:
        """Give `sequence` the state that it has `length` symbols further on."""
        state, last = sequence.state, int(sequence.forced[length - 1])
        position = state.position + length
        sequence.state = State.of_row(h_LH, c_LH, last=last, position=position, seed=state.seed, end=self._symbols.end)
        sequence.position = sequence.state.position
        sequence.forced = sequence.forced[length:]


def _finite(*values: Floats32) -> bool:
    return all(bool(np.isfinite(value).all()) for value in values)
