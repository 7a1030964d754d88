"""Which sequences run in a tick, and with which others: cellular batching.

Sequences join and leave batches at every tick and share its matrix products (P. Gao et al., "Low Latency RNN
Inference with Cellular Batching", EuroSys 2018). A tick has at most four runs, in this order, so that a sequence can
go from its last prefilled symbol to its first decoded one within a tick:

    PREFILL    some of the sequences in it, for as long as the caller grants
    START      the sequences in it, those that filter what they sample from in a run of their own
    DECODE     one decode batch; the batches take turns

Where there are more sequences than a run has rows, the tenants that they belong to share the rows: each gets as many
as any other, or as it has sequences.
"""

# Shape suffixes: B rows, C candidate lengths of a run.

from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import Any, Final

import numpy as np

from segue_server.engine.decode_batch import DecodeBatch
from segue_server.engine.model import Model
from segue_server.engine.prefill_batch import PrefillBatch
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import ALL_PARTS, Sequence, Status, StepOutput
from segue_server.engine.turns import Turns

_FIRST_STEPS: Final = 8
"""Steps of a sequence's first run."""

Batch = PrefillBatch | DecodeBatch


class Scheduler:
    """Keeps the sequences of an engine, and their statuses."""

    def __init__(self, model: Model, rows: int | None = None) -> None:
        """`rows`: at most this many sequences share a decode batch (None: what suits the model)."""
        self._model = model
        self.most_rows = rows or model.capacity.rows
        """Of a decode batch."""
        self._queues = {status: Turns() for status in (Status.PREFILL, Status.DECODE, Status.START, Status.PAUSED)}
        """The sequences by status."""
        self._decode_batches: deque[DecodeBatch] = deque()
        """The rows of those in DECODE, in the order of their turns."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def runnable(self) -> int:
        """How many sequences are not paused."""
        return len(self) - len(self._queues[Status.PAUSED])

    @property
    def decoding(self) -> int:
        """How many sequences write."""
        return len(self._queues[Status.START]) + len(self._queues[Status.DECODE])

    @property
    def next_rows(self) -> int:
        """How many rows the next tick's decode batch has."""
        if not self._decode_batches:
            return 0
        first = self._decode_batches[0]
        return self.most_rows if self._is_contended(first.filtered) else len(first)

    def add(self, sequence: Sequence) -> None:
        """Let `sequence` join at the next tick."""
        self._move(sequence, Status.PREFILL if len(sequence.prefill_ids) else Status.START)

    def remove(self, sequence: Sequence) -> None:
        """Forget `sequence`."""
        self._leave_row(sequence)
        self._move(sequence, Status.FINISHED)

    def pause(self, sequence: Sequence) -> bool:
        """Keep `sequence`, but do not schedule it; return whether it was running."""
        running = sequence.status in {Status.PREFILL, Status.START, Status.DECODE}
        if running:
            self._leave_row(sequence)
            self._move(sequence, Status.PAUSED)
        return running

    def resume(self, sequence: Sequence) -> None:
        """Let `sequence` join again if it is paused."""
        if sequence.status is Status.PAUSED:
            self.add(sequence)

    def clear(self) -> list[Sequence]:
        """Forget every sequence, and return them."""
        for batch in self._decode_batches:
            batch.dissolve()
        self._decode_batches.clear()
        sequences = [sequence for queue in self._queues.values() for sequence in queue]
        for sequence in sequences:
            self._move(sequence, Status.FINISHED)
        return sequences

    def schedule(self, steps: int, prefill_work: int) -> Iterator[Batch]:
        """Yield the batches of a tick; each must be run and post-processed before the next is taken.

        `steps`: of the decode batch, at most; `prefill_work`: of the prefill batch, about, in rows of a step.
        """
        if self._queues[Status.PREFILL]:
            yield self._prefill_batch(prefill_work)
        for filtered in (False, True):
            starting = self._queues[Status.START].take_turns(self.most_rows, _filters(filtered))
            if starting:
                batch = DecodeBatch(self._model, starting, Status.START)
                batch.set_steps(min(steps, _FIRST_STEPS))
                yield batch
        if self._decode_batches:
            batch = self._next_decode_batch()
            batch.set_steps(steps)
            yield batch

    def postprocess(self, batch: Batch, result: Any) -> list[StepOutput]:
        """Take the result of the run of `batch` and requeue its sequences.

        Return outputs of those that ended, reached a mark, or wrote for the first time; `collect` returns the others'.
        """
        outputs = batch.postprocess(result)
        for output in outputs:
            if output.finish is not None:
                self._move(output.sequence, Status.FINISHED)
        if isinstance(batch, PrefillBatch):
            for sequence in batch.sequences:
                if sequence.status is Status.PREFILL:
                    self.add(sequence)
        elif batch.status is Status.START:
            outputs += self._seat(batch)
        else:
            self._put_back(batch)
        return outputs

    def collect(self, parts: Container[int]) -> list[StepOutput]:
        """Return what sequences of `parts` in PREFILL and DECODE have read and written since their last outputs."""
        symbols = self._model.symbols
        outputs = [s.collect(symbols) for s in self._queues[Status.PREFILL] if s.prefill_scores and s.part in parts]
        for batch in self._decode_batches:
            outputs += batch.collect(parts)
        return [output for output in outputs if output.has_content]

    def _move(self, sequence: Sequence, status: Status) -> None:
        """Change the status of `sequence`, and with it the queue that it is in."""
        if sequence.status in self._queues:
            self._queues[sequence.status].remove(sequence)
        sequence.status = status
        if status in self._queues:
            self._queues[status].add(sequence)

    def _leave_row(self, sequence: Sequence) -> None:
        """Give `sequence` its state back if a row has it."""
        if sequence.status is Status.DECODE:
            batch = next(batch for batch in self._decode_batches if sequence in batch.sequences)
            batch.leave([sequence])
            if not len(batch):
                self._decode_batches.remove(batch)

    def _prefill_batch(self, most_work: int) -> PrefillBatch:
        """Return the sequences whose turn it is, as long a run as pays, cut between characters.

        Those that have more to read go to the end of the queue afterwards, so that a long text delays nobody.
        """
        queue, symbols = self._queues[Status.PREFILL], self._model.symbols
        in_detail = queue.first().needs_details
        sequences = queue.take_turns(
            self._model.capacity.prefill_rows, lambda sequence: sequence.needs_details == in_detail
        )
        length = self._prefill_length(sequences, most_work)
        lengths = [symbols.whole(s.prefill_ids, min(length, _symbols_to_next_mark(s))) for s in sequences]
        return PrefillBatch(self._model, sequences, np.array(lengths))

    def _prefill_length(self, sequences: list[Sequence], most_work: int) -> int:
        """Return the length of a run that reads most for its cost: short rows are padded."""
        capacity = self._model.capacity
        rows = len(sequences) + capacity.step_rows
        most = capacity.detailed_symbols if sequences[0].needs_details else capacity.prefill_symbols
        longest = max(1, min(most_work // rows, most // len(sequences)))
        left_B: Ids = np.minimum([_symbols_to_next_mark(sequence) for sequence in sequences], longest)
        length_C = np.unique(left_B)
        symbols_C = np.minimum(left_B[np.newaxis], length_C[:, np.newaxis]).sum(axis=1)
        return int(length_C[np.argmax(symbols_C / (capacity.run_cost + length_C * rows))])

    def _seat(self, batch: DecodeBatch) -> list[StepOutput]:
        """Let sequences that have started join decode batches with room; return what they wrote."""
        outputs = batch.collect(ALL_PARTS)
        for sequence in batch.sequences:
            self._move(sequence, Status.DECODE)
        batch.status = Status.DECODE
        rest: DecodeBatch | None = batch
        for other in self._decode_batches:
            room = self.most_rows - len(other)
            if rest and other.filtered == rest.filtered and room > 0:
                part, rest = rest.split(set(rest.sequences[:room]))
                if part:
                    other.absorb(part)
        if rest:
            self._decode_batches.append(rest)
        return outputs

    def _is_contended(self, filtered: bool) -> bool:
        """Whether tenants compete for the rows of a kind of decode batch."""
        rows = sum(len(batch) for batch in self._decode_batches if batch.filtered == filtered)
        return rows > self.most_rows and self._queues[Status.DECODE].tenants > 1

    def _next_decode_batch(self) -> DecodeBatch:
        """Return the batch whose turn it is; where tenants compete for rows, one in which they share them.

        It takes the rows that it needs from wherever they are. As long as nobody comes or goes, most of it is what ran
        together at the last turn.
        """
        filtered = self._decode_batches[0].filtered
        if not self._is_contended(filtered):
            return self._decode_batches.popleft()
        taken = set(self._queues[Status.DECODE].take_turns(self.most_rows, _filters(filtered)))
        found, left = list[DecodeBatch](), list[DecodeBatch]()
        for batch in self._decode_batches:
            part, rest = batch.split(taken) if batch.filtered == filtered else (None, batch)
            found += [part] if part else []
            left += [rest] if rest else []
        # The other kind comes next, however many batches this one has.
        self._decode_batches = deque(sorted(left, key=lambda batch: batch.filtered == filtered))
        for part in found[1:]:
            found[0].absorb(part)
        return found[0]

    def _put_back(self, batch: DecodeBatch) -> None:
        """Queue a decode batch again; a small one joins another that has room for all of it."""
        if not len(batch):
            return
        for other in self._decode_batches:
            if other.filtered == batch.filtered and len(other) + len(batch) <= self.most_rows:
                other.absorb(batch)
                return
        self._decode_batches.append(batch)


def _filters(filtered: bool) -> Callable[[Sequence], bool]:
    return lambda sequence: sequence.sampling.filtered == filtered


def _symbols_to_next_mark(sequence: Sequence) -> int:
    """Return how far a sequence reads before it is at a mark or at the end of `prefill_ids`."""
    end = sequence.position + len(sequence.prefill_ids)
    return min((mark for mark in sequence.marks if mark > sequence.position), default=end) - sequence.position
