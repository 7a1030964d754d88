"""Sequences whose given symbols are read in one run: prompts, and texts to score, of any lengths."""

# Shape suffixes: B rows, T symbols of a run, N symbols of a row, L layers, H hidden, V vocabulary.

import numpy as np
from numpy.typing import NDArray

from segue_server.engine.model import Model
from segue_server.engine.runners.runner import Reading, ReadResult
from segue_server.engine.sampling import Floats32, Ids
from segue_server.engine.scores import Alternatives, quantized
from segue_server.engine.sequence import Finish, Sequence, State, StepOutput


class PrefillBatch:
    """The next `length_B` of each sequence's `prefill_ids`. All sequences need details, or none does."""

    def __init__(self, model: Model, sequences: list[Sequence], length_B: Ids) -> None:
        self.sequences = sequences
        capacity = model.capacity
        self.work = int(length_B.max()) * (len(sequences) + capacity.step_rows) + capacity.run_cost
        """In rows of a step."""
        self.slots = int(length_B.max()) * len(sequences)
        """How many symbols its rows have room for."""
        self.symbols = int(length_B.sum())
        """How many it reads."""
        self._model = model
        self._symbols = model.symbols
        self._length_B = length_B

    def run(self) -> ReadResult:
        """Read the symbols, each row from its sequence's state."""
        sequences, length_B = self.sequences, self._length_B
        targets_TB = np.zeros((length_B.max(), len(sequences)), dtype=np.int64)
        for row, (sequence, length) in enumerate(zip(sequences, length_B.tolist(), strict=True)):
            targets_TB[:length, row] = sequence.prefill_ids[:length]
        tokens_TB = np.concatenate([[[sequence.state.last for sequence in sequences]], targets_TB[:-1]])
        rows = self._model.scatter(
            np.stack([sequence.state.h for sequence in sequences], axis=1),
            np.stack([sequence.state.c for sequence in sequences], axis=1),
        )
        alternatives = max(sequence.alternatives_prefill for sequence in sequences)
        wanted = alternatives if sequences[0].needs_details else None
        return self._model.read(rows, Reading(tokens_TB, targets_TB, length_B, wanted))

    def postprocess(self, result: ReadResult) -> list[StepOutput]:
        """Give each sequence its state and scores; return outputs of those that ended or reached a mark."""
        outputs = []
        finite_B = self._finite(result).tolist()
        h_LBH, c_LBH = self._model.gather(result.rows)
        for row, (sequence, length) in enumerate(zip(self.sequences, self._length_B.tolist(), strict=True)):
            if not finite_B[row]:
                outputs.append(sequence.collect(self._symbols, Finish.FAULT))
                continue
            if sequence.score_prefill:
                scores_N = quantized(result.log_probabilities_TB[:length, row])
                by_character = self._symbols.by_character(scores_N, sequence.prefill_ids[:length])
                sequence.prefill_scores.append(by_character)
            _note_details(sequence, result, row, length)
            self._advance(sequence, h_LBH[:, row], c_LBH[:, row], length)
            if not (len(sequence.prefill_ids) or sequence.max_characters):
                outputs.append(sequence.collect(self._symbols, Finish.LENGTH, state=sequence.state))
            elif sequence.position in sequence.marks:
                outputs.append(sequence.collect(self._symbols, state=sequence.state))
        return outputs

    def _finite(self, result: ReadResult) -> NDArray[np.bool_]:
        """Return whether all that a row got are finite numbers."""
        scores_TB = result.log_probabilities_TB
        inside_TB = np.arange(len(scores_TB))[:, np.newaxis] < self._length_B
        return np.asarray(result.finite_B & (np.isfinite(scores_TB) | ~inside_TB).all(axis=0))

    def _advance(self, sequence: Sequence, h_LH: Floats32, c_LH: Floats32, length: int) -> None:
        """Move `sequence` to the state after the next `length` symbols."""
        state, last = sequence.state, int(sequence.prefill_ids[length - 1])
        position = state.position + length
        sequence.state = State.of_row(h_LH, c_LH, last=last, position=position, seed=state.seed, end=self._symbols.end)
        sequence.position = position
        sequence.prefill_ids = sequence.prefill_ids[length:]


def _note_details(sequence: Sequence, result: ReadResult, row: int, length: int) -> None:
    """Note how the next `length` symbols of `prefill_ids` compare with all others, if the sequence asks for it."""
    if sequence.rank_prefill and result.ranks_TB is not None:
        sequence.prefill_ranks.append(result.ranks_TB[:length, row])
    if sequence.alternatives_prefill and result.likeliest is not None:
        sequence.alternatives_found.append(
            Alternatives.of_row(result.likeliest, row, length, sequence.alternatives_prefill)
        )
