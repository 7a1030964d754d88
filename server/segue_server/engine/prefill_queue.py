"""Sequences that read: prompts, and texts to score. They share runs whatever their lengths."""

# Shape suffixes: B rows, T symbols of a run, L layers, H hidden.

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np

from segue_server.engine.model import Model
from segue_server.engine.ranking import likeliest, ranks
from segue_server.engine.sampling import Floats32, Ids, quantized
from segue_server.engine.sequence import Sequence, State

STEP_ROWS: Final = 8
"""What a step costs beside its rows, in rows."""

_MOST_ROWS: Final = 128
_MOST_SYMBOLS: Final = 2**14
"""Of one run, which bounds what its results take."""
_MOST_SCORES: Final = 2**21
"""Of one run that gives the scores of all symbols."""
_RUN_COST: Final = 64
"""What a run costs beside its steps, in rows of a step."""


@dataclass(frozen=True)
class PrefillRun:
    """What became of those that took part in a run."""

    through: list[Sequence]
    """Who has read all that it was to."""
    marked: list[Sequence]
    """Who stands at one of its marks; some are through as well."""
    faulty: list[Sequence]
    """Whose results are not finite: who stays as it was, out of the queue."""


class PrefillQueue:
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
        """Let `sequence` read its `prefill_ids` symbols."""
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

    def read(self, most_work: int) -> PrefillRun:
        """Do one run of about `most_work` rows of a step at most."""
        self.work = 0
        if not self._queue:
            return PrefillRun([], [], [])
        sequences = self._next()
        length_B = self._lengths(sequences, most_work)
        self.work = int(length_B.max()) * (len(sequences) + STEP_ROWS) + _RUN_COST
        faulty = self._run(sequences, length_B)
        gone_on = [sequence for sequence in sequences if sequence not in faulty]
        self._queue.extend(sequence for sequence in gone_on if len(sequence.prefill_ids))
        through = [sequence for sequence in gone_on if not len(sequence.prefill_ids)]
        marked = [sequence for sequence in gone_on if sequence.position in sequence.marks]
        return PrefillRun(through, marked, faulty)

    def _next(self) -> list[Sequence]:
        """Take who is next out of the queue, and those of its kind behind."""
        detailed = self._queue[0].needs_every_score
        sequences = [sequence for sequence in self._queue if sequence.needs_every_score == detailed][:_MOST_ROWS]
        taken = set(sequences)
        self._queue = deque(sequence for sequence in self._queue if sequence not in taken)
        return sequences

    def _lengths(self, sequences: list[Sequence], most_work: int) -> Ids:
        """Return how many symbols each is to read: as long a run as pays, cut between characters."""
        rows = len(sequences) + STEP_ROWS
        most_symbols = _MOST_SYMBOLS
        if sequences[0].needs_every_score:
            most_symbols = min(most_symbols, _MOST_SCORES // len(self._model.vocabulary))
        longest = max(1, min(most_work // rows, most_symbols // len(sequences)))
        left_B = np.minimum([_symbols_to_next_stop(sequence) for sequence in sequences], longest)
        length_C = np.unique(left_B)
        symbols_C = np.minimum(left_B[np.newaxis], length_C[:, np.newaxis]).sum(axis=1)
        length = int(length_C[np.argmax(symbols_C / (_RUN_COST + length_C * rows))])
        return np.array([self._symbols.whole(s.prefill_ids, min(length, _symbols_to_next_stop(s))) for s in sequences])

    def _run(self, sequences: list[Sequence], length_B: Ids) -> list[Sequence]:
        """Read; return the sequences whose results are not finite, which stay as they were."""
        targets_TB = np.zeros((length_B.max(), len(sequences)), dtype=np.int64)
        for row, (sequence, length) in enumerate(zip(sequences, length_B.tolist(), strict=True)):
            targets_TB[:length, row] = sequence.prefill_ids[:length]
        tokens_TB = np.concatenate([[[sequence.state.last for sequence in sequences]], targets_TB[:-1]])
        h_LBH = np.stack([sequence.state.h for sequence in sequences], axis=1)
        c_LBH = np.stack([sequence.state.c for sequence in sequences], axis=1)
        if sequences[0].needs_every_score:
            scores_TBV, h_LBH, c_LBH = self._model.read_in_detail(tokens_TB, length_B, h_LBH, c_LBH)
            scores_TB = np.take_along_axis(scores_TBV, targets_TB[:, :, np.newaxis], axis=2)[:, :, 0]
        else:
            scores_TBV = None
            scores_TB, h_LBH, c_LBH = self._model.read(tokens_TB, targets_TB, length_B, h_LBH, c_LBH)
        faulty = []
        for row, (sequence, length) in enumerate(zip(sequences, length_B.tolist(), strict=True)):
            if not _finite(scores_TB[:length, row], h_LBH[:, row], c_LBH[:, row]):
                faulty.append(sequence)
                continue
            if sequence.score_prefill:
                scores = quantized(scores_TB[:length, row])
                sequence.scores_read.append(self._symbols.by_character(scores, sequence.prefill_ids[:length]))
            if scores_TBV is not None:
                _note_details(sequence, scores_TBV[:length, row])
            self._move(sequence, h_LBH[:, row], c_LBH[:, row], length)
        return faulty

    def _move(self, sequence: Sequence, h_LH: Floats32, c_LH: Floats32, length: int) -> None:
        """Give `sequence` the state that it has `length` symbols further on."""
        state, last = sequence.state, int(sequence.prefill_ids[length - 1])
        position = state.position + length
        sequence.state = State.of_row(h_LH, c_LH, last=last, position=position, seed=state.seed, end=self._symbols.end)
        sequence.position = sequence.state.position
        sequence.prefill_ids = sequence.prefill_ids[length:]


def _note_details(sequence: Sequence, scores_NV: Floats32) -> None:
    """Note how the next symbols of `prefill_ids` stand among all others."""
    if sequence.rank_forced:
        sequence.ranks_read.append(ranks(scores_NV, sequence.prefill_ids[: len(scores_NV)]))
    if sequence.alternatives_forced:
        sequence.alternatives_found.append(likeliest(scores_NV, sequence.alternatives_forced))


def _symbols_to_next_stop(sequence: Sequence) -> int:
    """Return how far a sequence reads before it is through or stands at a mark."""
    end = sequence.position + len(sequence.prefill_ids)
    return min((mark for mark in sequence.marks if mark > sequence.position), default=end) - sequence.position


def _finite(*values: Floats32) -> bool:
    return all(bool(np.isfinite(value).all()) for value in values)
