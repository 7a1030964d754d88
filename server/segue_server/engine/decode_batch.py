"""Sequences that write together, each in a row that it borrows for as long as it stays.

The arrays of the batch are kept from tick to tick and rebuilt only when a sequence joins or leaves. A leaving
sequence gets its state back.
"""

# Shape suffixes: L layers, B rows, K steps of a tick, P positions, H hidden, V symbols of the vocabulary.

from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segue_server.engine.decode_rows import DRAWN, LONGEST_TICK, DecodeRows
from segue_server.engine.model import Model
from segue_server.engine.runners.runner import Likeliest, Reading, Rows, WriteResult, Writing
from segue_server.engine.sampling import Floats32, Ids, SamplingRows
from segue_server.engine.scores import Alternatives, quantized
from segue_server.engine.sequence import ALL_PARTS, Finish, Sequence, State, Status, StepOutput

MOST_GATHERED: Final = 2**13
"""Bytes of alternatives that wait for `collect`."""

_WORTH_DRAWING: Final = 64
"""Rows for which drawing takes longer than asking another thread to."""

_SMALLEST: Final = np.float32(2.0**-24)
"""A uniform that chooses the first of the likeliest symbols, if only they have a chance."""


@dataclass(frozen=True)
class _Ends:
    """Where rows end within a tick."""

    count_B: Ids
    """How many of its symbols each row keeps."""
    left_B: Ids
    """Characters that it may still write."""
    whole_KB: NDArray[np.bool_] | None
    """Whether a symbol is the last of a character; None if every symbol is."""
    finish: dict[int, Finish]
    stop: dict[int, int] = field(default_factory=dict)


class DecodeBatch:
    """Up to some hundred sequences that write; all of them filter what they sample from, or none does."""

    def __init__(self, model: Model, sequences: list[Sequence], status: Status) -> None:
        """Give each of `sequences`, which have nothing to prefill, a row; `status` is that of them all."""
        self.sequences = sequences
        self.status = status
        self.filtered = sequences[0].sampling.filtered
        self.symbols = 0
        """How many symbols of the last run its sequences kept."""
        self._model = model
        self._symbols = model.symbols
        self._rows = DecodeRows.of(model, sequences)
        self._sampling = self._sampling_of(sequences)
        self._steps = 0

    def __len__(self) -> int:
        return len(self.sequences)

    def absorb(self, other: "DecodeBatch") -> None:
        """Take over the rows of `other`, which is of no use afterwards."""
        self._rows.join(other._rows)  # noqa: SLF001 - one of its own kind
        self._sampling.join(other._sampling)  # noqa: SLF001
        self.sequences = [*self.sequences, *other.sequences]

    def split(self, taken: Container[Sequence]) -> tuple["DecodeBatch | None", "DecodeBatch | None"]:
        """Return one batch of the sequences in `taken` and one of all others; None for none. Neither shares rows."""
        rows = [row for row, sequence in enumerate(self.sequences) if sequence in taken]
        others = [row for row, sequence in enumerate(self.sequences) if sequence not in taken]
        if not (rows and others):
            return (self, None) if rows else (None, self)
        part = copy(self)
        self._rows, self._sampling = copy(self._rows), copy(self._sampling)
        self._keep(others)
        part._keep(rows)  # noqa: SLF001 - one of its own kind
        return part, self

    def leave(self, leaving: list[Sequence]) -> None:
        """Give sequences their states back and drop their rows."""
        gone = set(map(id, leaving))
        rows = [row for row, sequence in enumerate(self.sequences) if id(sequence) in gone]
        for row, state in zip(rows, self._rows.states_of(rows, self._model), strict=True):
            sequence = self.sequences[row]
            sequence.state, sequence.max_characters = state, int(self._rows.left_B[row])
            sequence.spelling = int(self._rows.spelling_B[row])
        self._keep([row for row, sequence in enumerate(self.sequences) if id(sequence) not in gone])

    def dissolve(self) -> list[Sequence]:
        """Let all sequences leave, and return them."""
        sequences = self.sequences
        self.leave(sequences)
        return sequences

    def set_steps(self, steps: int) -> None:
        """Let the next run have up to `steps` steps: at most `LONGEST_TICK`, fewer if every row ends before."""
        self._steps = min(steps, LONGEST_TICK, int(self._rows.left_B.max()) * self._symbols.longest)

    @property
    def work(self) -> int:
        """What the next run costs, in rows of a step."""
        return self._steps * (len(self) + self._model.capacity.step_rows)

    @property
    def slots(self) -> int:
        """How many symbols its rows have room for in the next run."""
        return self._steps * len(self)

    def run(self) -> WriteResult:
        """Write the next symbols in every row."""
        rows = self._rows
        scored = bool(rows.scored_B.any())
        writing = Writing(
            rows.token_B,
            rows.spelling_B,
            self._sampling,
            self._uniforms(self._steps),
            filtered=self.filtered,
            scored=scored,
            alternatives=max(sequence.alternatives for sequence in self.sequences) if scored else 0,
        )
        with self._drawing_ahead():
            return self._model.write(rows.states, writing)

    def postprocess(self, written: WriteResult) -> list[StepOutput]:
        """Give each sequence what it wrote; drop the rows of those that ended.

        Return the last outputs of these, and of others what must not wait for `collect`: many alternatives.
        """
        rows, ends = self._rows, self._ends(written)
        self.symbols = int(ends.count_B.sum())
        self._hand_out(written, ends)
        outputs = self._last_outputs(written, ends)
        rows.token_B, rows.states = written.ids_KB[-1], written.rows
        rows.spelling_B, rows.left_B = written.spelling_B, ends.left_B
        rows.position_B = rows.position_B + len(written.ids_KB)
        if ends.finish:
            self._keep([row for row in range(len(self)) if row not in ends.finish])
        if written.log_probabilities_KB is not None:
            outputs += self._collect(MOST_GATHERED)
        return outputs

    def collect(self, parts: Container[int]) -> list[StepOutput]:
        """Return what each sequence of some `parts` has written since its last output, if anything."""
        return self._collect(0, parts)

    def finish_characters(self) -> list[StepOutput]:
        """End every sequence, each of which is inside a character, with that character and Finish.DRAINED."""
        spare_B, sequences = self._rows.left_B - 1, self.sequences
        for sequence in sequences:
            sequence.keep_state = True
        self._rows.left_B = np.ones_like(spare_B)
        self.set_steps(self._symbols.longest)
        outputs = {id(output.sequence): output for output in self.postprocess(self.run())}
        drained = []
        for sequence, spare in zip(sequences, spare_B.tolist(), strict=True):
            output = outputs[id(sequence)]
            sequence.max_characters += spare
            has_more = spare and output.finish is Finish.LENGTH
            drained.append(replace(output, finish=Finish.DRAINED) if has_more else output)
        return drained

    def _collect(self, least: int, parts: Container[int] = ALL_PARTS) -> list[StepOutput]:
        """Return what sequences of some `parts` have written whose alternatives take `least` bytes."""
        rows = [
            row
            for row, sequence in enumerate(self.sequences)
            if sequence.part in parts and sequence.decoded_ids and sequence.alternatives_bytes >= least
        ]
        due = [row for row in rows if self.sequences[row].state_due]
        states = dict(zip(due, self._rows.states_of(due, self._model), strict=True))
        return [self.sequences[row].collect(self._symbols, state=states.get(row)) for row in rows]

    def _sampling_of(self, sequences: list[Sequence]) -> SamplingRows:
        return SamplingRows([sequence.sampling for sequence in sequences], self._symbols.barred)

    def _keep(self, rows: list[int]) -> None:
        kept = np.array(rows, dtype=np.int64)
        self._rows.keep(kept)
        self._sampling.keep(kept)
        self.sequences = [self.sequences[row] for row in rows]

    def _uniforms(self, steps: int) -> Floats32:
        """Return the random numbers [K, B] of the next positions."""
        rows = self._rows
        short = rows.short(rows.position_B, steps)
        if len(short):
            rows.keep_draws(short, *rows.draw(short, rows.position_B))
        first_B = np.arange(len(self)) * DRAWN + (rows.position_B - rows.drawn_from_B)
        uniform_KB = rows.uniform_BP.ravel().take(first_B + np.arange(steps)[:, np.newaxis])
        uniform_KB[:, self._sampling.greedy_B] = _SMALLEST
        return uniform_KB

    @contextmanager
    def _drawing_ahead(self) -> Iterator[None]:
        """While a device has work, draw the random numbers of the tick after it."""
        rows = self._rows
        if not self._model.capacity.on_device:
            yield
            return
        position_B = rows.position_B + self._steps
        short = rows.short(position_B, self._steps)
        if len(short) < _WORTH_DRAWING:
            yield
            return
        drawn = _ahead().submit(rows.draw, short, position_B)
        yield
        rows.keep_draws(short, *drawn.result())

    def _ends(self, written: WriteResult) -> _Ends:
        """Decide how much of what was written each row keeps, and why it ends, if it does."""
        ends = self._ends_by_length(written)
        self._end_documents(written, ends)
        for row in np.flatnonzero(self._rows.stopping_B).tolist():
            found = self.sequences[row].stops.find(written.ids_KB[: ends.count_B[row], row])
            if found and (found[0] < ends.count_B[row] or ends.finish.get(row) is not Finish.END):
                ends.count_B[row], ends.stop[row] = found
                ends.finish[row] = Finish.STOP
        self._end_faulty(written, ends)
        return ends

    def _ends_by_length(self, written: WriteResult) -> _Ends:
        steps, left_B = len(written.ids_KB), self._rows.left_B
        if self._symbols.single:
            whole_KB = None
            count_B = np.minimum(steps, left_B)
            left_B = left_B - count_B
        else:
            whole_KB = self._symbols.ends(written.ids_KB, written.spelling_B)
            left_KB = left_B - whole_KB.cumsum(axis=0)
            count_B = np.where(left_KB[-1] <= 0, (left_KB <= 0).argmax(axis=0) + 1, steps)
            left_B = np.maximum(left_KB[-1], 0)
        return _Ends(count_B, left_B, whole_KB, dict.fromkeys(np.flatnonzero(left_B == 0).tolist(), Finish.LENGTH))

    def _end_documents(self, written: WriteResult, ends: _Ends) -> None:
        if self._symbols.end is None:
            return
        ended_KB = written.ids_KB == self._symbols.end
        for row in np.flatnonzero(ended_KB.any(axis=0)).tolist():
            count = int(ended_KB[:, row].argmax()) + 1
            if count <= ends.count_B[row]:
                ends.count_B[row], ends.finish[row] = count, Finish.END

    def _end_faulty(self, written: WriteResult, ends: _Ends) -> None:
        """End rows that are not finite, without the symbols of this tick."""
        for row in np.flatnonzero(~written.finite_B).tolist():
            ends.count_B[row], ends.finish[row] = 0, Finish.FAULT

    def _hand_out(self, written: WriteResult, ends: _Ends) -> None:
        """Give each sequence what it wrote."""
        ids_BK = np.ascontiguousarray(written.ids_KB.T)
        for sequence, ids_K in zip(self.sequences, ids_BK, strict=True):
            sequence.decoded_ids.append(ids_K)
        for row in ends.finish:
            self.sequences[row].decoded_ids[-1] = ids_BK[row, : ends.count_B[row]]
        if written.log_probabilities_KB is not None:
            self._hand_out_scores(written.log_probabilities_KB, written.likeliest, ends)
        if ends.whole_KB is not None:
            self._note_unfinished(ends.whole_KB, ends.count_B)

    def _hand_out_scores(self, scores_KB: Floats32, likeliest: Likeliest | None, ends: _Ends) -> None:
        scores_BK = quantized(np.ascontiguousarray(scores_KB.T))
        for row in np.flatnonzero(self._rows.scored_B).tolist():
            sequence, count = self.sequences[row], int(ends.count_B[row])
            if sequence.score_decode:
                sequence.decoded_scores.append(scores_BK[row, :count])
            if sequence.alternatives and likeliest:
                found = Alternatives.of_row(likeliest, row, count, sequence.alternatives)
                sequence.alternatives_found.append(found)
                sequence.alternatives_bytes += found.nbytes

    def _note_unfinished(self, whole_KB: NDArray[np.bool_], count_B: Ids) -> None:
        """Note how many symbols of an incomplete character each sequence has written."""
        for row, (sequence, count) in enumerate(zip(self.sequences, count_B.tolist(), strict=True)):
            whole = np.flatnonzero(whole_KB[:count, row])
            end = int(whole[-1]) + 1 if len(whole) else -sequence.unfinished
            sequence.unfinished = count - end

    def _last_outputs(self, written: WriteResult, ends: _Ends) -> list[StepOutput]:
        """Return the last outputs of the sequences that ended."""
        states = self._last_states(written, ends)
        outputs = []
        for row, finish in ends.finish.items():
            sequence = self.sequences[row]
            sequence.max_characters = int(self._rows.left_B[row]) - _characters(ends, row)
            outputs.append(sequence.collect(self._symbols, finish, ends.stop.get(row), states.get(row)))
        return outputs

    def _last_states(self, written: WriteResult, ends: _Ends) -> dict[int, State]:
        """Return the state after the last symbol of each row that ends and keeps its state."""
        keeping = [
            row for row, finish in ends.finish.items() if self.sequences[row].keep_state and finish is not Finish.FAULT
        ]
        early = [
            row
            for row in keeping  # a document that ended has the zero state
            if ends.count_B[row] < len(written.ids_KB) and ends.finish[row] is not Finish.END
        ]
        found = self._read_again(early, written, ends)
        late = [row for row in keeping if row not in found]
        if late:
            found |= self._by_row(late, written.rows.take(np.array(late)))
        states = {}
        for row, (h_LH, c_LH) in found.items():
            count, seed = int(ends.count_B[row]), int(self._rows.seed_B[row])
            last, position = int(written.ids_KB[count - 1, row]), int(self._rows.position_B[row]) + count
            states[row] = State.of_row(h_LH, c_LH, last=last, position=position, seed=seed, end=self._symbols.end)
        return states

    def _by_row(self, numbers: list[int], rows: Rows) -> dict[int, tuple[Floats32, Floats32]]:
        """Return h and c of `rows`, by their numbers in the batch."""
        h_LBH, c_LBH = self._model.gather(rows)
        return {row: (h_LBH[:, i], c_LBH[:, i]) for i, row in enumerate(numbers)}

    def _read_again(self, early: list[int], written: WriteResult, ends: _Ends) -> dict[int, tuple[Floats32, Floats32]]:
        """Read again what rows wrote, from their state before the tick; return h and c at the end of each."""
        if not early:
            return {}
        rows, count_E = self._rows, ends.count_B[early]
        targets_TE = written.ids_KB[: count_E.max(), early]
        tokens_TE = np.concatenate([rows.token_B[np.newaxis, early], targets_TE[:-1]])
        end = self._model.read(rows.states.take(np.array(early)), Reading(tokens_TE, targets_TE, count_E))
        return self._by_row(early, end.rows)


@cache
def _ahead() -> ThreadPoolExecutor:
    """Return the thread that draws while a device has work."""
    return ThreadPoolExecutor(1, "draw ahead")


def _characters(ends: _Ends, row: int) -> int:
    """Return how many characters end among the symbols that a row keeps."""
    count = int(ends.count_B[row])
    return count if ends.whole_KB is None else int(np.count_nonzero(ends.whole_KB[:count, row]))
