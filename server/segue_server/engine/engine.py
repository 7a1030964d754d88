"""The engine: advances many sequences together, without I/O, threads, clock or global randomness.

A tick is a few runs of the model, each in three stages: schedule -> run -> post-process. A state belongs to its
sequence, never to a row; a sequence borrows a row while it decodes. What a sequence gets depends neither on the other
sequences nor on how its symbols are divided into ticks.
"""

from collections.abc import Container

from segue_server.engine.decode_batch import DecodeBatch
from segue_server.engine.model import Model
from segue_server.engine.runners.runner import Capacity
from segue_server.engine.scheduler import Scheduler
from segue_server.engine.sequence import ALL_PARTS, PARTS, Finish, Sequence, Status, StepOutput


class Engine:
    """Advances sequences together. Not thread-safe: one caller at a time."""

    def __init__(self, model: Model, rows: int | None = None) -> None:
        """Run `model`; up to `rows` sequences share a run (None: what suits the model)."""
        self._model = model
        self._scheduler = Scheduler(model, rows)
        self._just_paused: list[Sequence] = []
        """Those whose last output before the pause has not been returned yet."""
        self._added = 0
        self._draining = False
        self._ending: list[Sequence] = []
        """Those that end with the next tick."""
        self.work = 0
        """What the last tick cost, in rows of a step; see `Capacity.step_rows`."""
        self.symbols = 0
        """How many symbols the last tick read and wrote."""
        self._slots = 0
        """How many symbols the rows of the last tick had room for."""

    def __len__(self) -> int:
        """How many sequences have been added and have not ended."""
        return len(self._scheduler)

    @property
    def decoding(self) -> int:
        """How many sequences write."""
        return self._scheduler.decoding

    @property
    def capacity(self) -> Capacity:
        """How many rows and symbols a run should have, and what its steps cost."""
        return self._model.capacity

    @property
    def rows(self) -> int:
        """How many rows the next tick's decode batch has."""
        return self._scheduler.next_rows

    @property
    def most_rows(self) -> int:
        """How many rows a full decode batch has."""
        return self._scheduler.most_rows

    @property
    def fullness(self) -> float:
        """How long full decode batches would have taken for what the rows of the last tick had room for, as a share.

        0 for a tick that ran nothing.
        """
        full = self.most_rows
        return self._slots * (full + self.capacity.step_rows) / (full * self.work) if self.work else 0.0

    @property
    def idle(self) -> bool:
        """Whether a tick would have nothing to do."""
        waiting = len(self) if self._draining else self._scheduler.runnable
        return not (waiting or self._just_paused or self._ending)

    def add(self, sequence: Sequence) -> None:
        """Let `sequence` join at the next tick."""
        sequence.part = self._added % PARTS
        self._added += 1
        self._scheduler.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget `sequence`; it has no more output. Does nothing if it has ended."""
        self._scheduler.remove(sequence)
        self._just_paused = [other for other in self._just_paused if other is not sequence]
        self._ending = [other for other in self._ending if other is not sequence]

    def end(self, sequence: Sequence) -> None:
        """Make the next tick end `sequence` at the end of its character, with Finish.DRAINED, unless it has ended."""
        runs = sequence.status in {Status.PREFILL, Status.START, Status.DECODE, Status.PAUSED}
        if runs and not any(other is sequence for other in self._ending):
            self._ending.append(sequence)

    def pause(self, sequence: Sequence) -> None:
        """Keep `sequence`, but spend no tick on it until it is resumed. Does nothing if it has ended."""
        if self._scheduler.pause(sequence):
            self._just_paused.append(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Let a paused sequence join again."""
        self._scheduler.resume(sequence)

    def drain(self) -> None:
        """Make the next tick end every sequence at the end of its character, with Finish.DRAINED."""
        self._draining = True

    def step(self, steps: int, prefill_work: int) -> list[StepOutput]:
        """Run one tick; return the outputs of sequences that ended, came to a mark, or began to write.

        Writes up to `steps` symbols, at least 1, and reads for up to `prefill_work` rows of a step. What other
        sequences have read and written waits for `collect`.
        """
        self.work = self.symbols = self._slots = 0
        if self._draining:
            return self._end_all()
        outputs = [*self._collect_paused(), *self._end_some()]
        for batch in self._scheduler.schedule(steps, prefill_work):
            self.work += batch.work
            self._slots += batch.slots
            result = batch.run()
            outputs += self._scheduler.postprocess(batch, result)
            self.symbols += batch.symbols
        return outputs

    def collect(self, parts: Container[int] = ALL_PARTS) -> list[StepOutput]:
        """Return what every sequence of some `parts` has read and written since its last output."""
        return self._scheduler.collect(parts)

    def _collect_paused(self) -> list[StepOutput]:
        outputs = [sequence.collect(self._model.symbols) for sequence in self._just_paused]
        self._just_paused = []
        return [output for output in outputs if output.has_content]

    def _end_all(self) -> list[StepOutput]:
        self._just_paused, self._ending = [], []
        return self._drained(self._scheduler.clear())

    def _end_some(self) -> list[StepOutput]:
        ending, self._ending = self._ending, []
        for sequence in ending:
            self._scheduler.remove(sequence)
        return self._drained(ending)

    def _drained(self, sequences: list[Sequence]) -> list[StepOutput]:
        """Return the last outputs of sequences that the scheduler has forgotten, with their states."""
        symbols = self._model.symbols
        outputs = [s.collect(symbols, Finish.DRAINED, state=s.state) for s in sequences if not s.unfinished]
        for filtered in (False, True):
            inside = [s for s in sequences if s.unfinished and s.sampling.filtered == filtered]
            if inside:
                outputs += DecodeBatch(self._model, inside, Status.FINISHED).finish_characters()
        return outputs
