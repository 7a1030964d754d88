"""The engine: cellular batching of sequences, without I/O, threads, clock or global randomness.

Sequences join and leave at every tick and share its matrix products (P. Gao et al., "Low Latency RNN Inference with
Cellular Batching", EuroSys 2018). A tick is at most three runs of the model:

    reading     some of those that read, for as long as the caller grants
    newcomers   those that are to write their first symbols, so that these come soon
    writing     one cohort of those that write; the cohorts take turns

A state belongs to its sequence, never to a row; a sequence borrows a row while it writes. What a sequence gets
depends neither on its company nor on how its symbols are divided into ticks.
"""

from collections import deque
from typing import Final

from segue_server.engine.decode_batch import LONGEST_TICK, DecodeBatch
from segue_server.engine.model import Model
from segue_server.engine.prefill_queue import STEP_ROWS, PrefillQueue
from segue_server.engine.sequence import Finish, Sequence, StepOutput

_FEWEST_ROWS: Final = 64
"""Of a full cohort: a wide layer's products gain nothing from more."""
_MOST_ROWS: Final = 256
"""A narrow layer's products gain little from more, and the batch still fits into a core's cache."""
_PRODUCTS: Final = 2**26
"""Multiplications of a step that are worth a row more: a wide model's ticks stay short for many steps."""

_FIRST_STEPS: Final = 8
"""Symbols that a newcomer writes before it joins a cohort."""


class Engine:
    """Advances sequences together. Not thread-safe: one caller at a time."""

    def __init__(self, model: Model, rows: int | None = None) -> None:
        """Run `model`; up to `rows` sequences share a run (None: what suits the model)."""
        self._model = model
        self._most_rows = rows or _suitable_rows(*model.state_shape)
        self._readers = PrefillQueue(model)
        self._newcomers: list[Sequence] = []
        self._cohorts: deque[DecodeBatch] = deque()
        self._paused: dict[Sequence, None] = {}
        self._collectable: list[Sequence] = []
        self._draining = False
        self.work = 0
        """What the last tick cost, in rows of a step; each step counts as `STEP_ROWS` further ones."""

    def __len__(self) -> int:
        """How many sequences are alive: reading, writing or paused."""
        return len(self._readers) + self.writing + len(self._paused)

    @property
    def writing(self) -> int:
        """How many sequences write."""
        return len(self._newcomers) + sum(map(len, self._cohorts))

    @property
    def rows(self) -> int:
        """How many rows the next tick's cohort has."""
        return len(self._cohorts[0]) if self._cohorts else 0

    @property
    def idle(self) -> bool:
        """Whether a tick would have nothing to do."""
        return not (len(self._readers) or self.writing or self._collectable or (self._draining and self._paused))

    def add(self, sequence: Sequence) -> None:
        """Let `sequence` join at the next tick."""
        if len(sequence.prefill_ids):
            self._readers.join(sequence)
        else:
            self._newcomers.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget `sequence`; no advance of it follows. Does nothing where it has ended."""
        if sequence in self._paused:
            del self._paused[sequence]
        else:
            self._take_out(sequence)
        self._collectable = [other for other in self._collectable if other is not sequence]

    def pause(self, sequence: Sequence) -> None:
        """Keep `sequence`, but spend no tick on it until it is resumed. Does nothing where it has ended."""
        if self._take_out(sequence):
            self._paused[sequence] = None
            self._collectable.append(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Let a paused sequence join again."""
        if sequence in self._paused:
            del self._paused[sequence]
            self.add(sequence)

    def drain(self) -> None:
        """Make the next tick end every sequence at the end of its character, with Finish.DRAINED."""
        self._draining = True

    def step(self, steps: int, reading_work: int) -> list[StepOutput]:
        """Run one tick; return the sequences that ended, and those that have just begun to write.

        Writes up to `steps` symbols, 1 to `LONGEST_TICK`, and reads for up to `reading_work` rows of a step. Those that
        came to one of their marks are returned too; what others have read and written waits to be collected.
        """
        if self._draining:
            return self._end_all()
        steps = min(steps, LONGEST_TICK)
        self.work = 0
        advances = [sequence.collect(self._model.symbols) for sequence in self._collectable]
        self._collectable = []
        advances += self._read(reading_work)
        advances += self._write_first(min(steps, _FIRST_STEPS))
        advances += self._write(steps)
        return advances

    def collect(self) -> list[StepOutput]:
        """Return what every sequence has read and written since this was last asked, of those that have."""
        symbols = self._model.symbols
        advances = [sequence.collect(symbols) for sequence in self._readers.sequences if sequence.scores_read]
        for cohort in self._cohorts:
            advances += cohort.collect()
        return [advance for advance in advances if len(advance.written) or len(advance.log_probabilities)]

    def _read(self, work: int) -> list[StepOutput]:
        run, symbols = self._readers.read(work), self._model.symbols
        self.work += self._readers.work
        ended = [sequence for sequence in run.through if not sequence.max_characters]
        advances = [sequence.collect(symbols, Finish.FAULT) for sequence in run.faulty]
        advances += [
            sequence.collect(symbols, state=sequence.state) for sequence in run.marked if sequence not in ended
        ]
        advances += [sequence.collect(symbols, Finish.LENGTH, state=sequence.state) for sequence in ended]
        for sequence in run.through:
            if sequence.max_characters:
                self.add(sequence)
        return advances

    def _write_first(self, steps: int) -> list[StepOutput]:
        """Let newcomers write; those that go on join a cohort."""
        advances = []
        for filtered in (False, True):
            now = [s for s in self._newcomers if s.sampling.filtered == filtered][: self._most_rows]
            if not now:
                continue
            leaving = set(now)
            self._newcomers = [s for s in self._newcomers if s not in leaving]
            cohort = self._cohort_of(now, filtered)
            self.work += cohort.useful(steps) * (len(cohort) + STEP_ROWS)
            advances += cohort.write(steps)
            going_on = cohort.dissolve()
            advances += [s.collect(self._model.symbols, state=s.state if s.state_due else None) for s in going_on]
            self._seat(going_on, filtered)
        return advances

    def _cohort_of(self, sequences: list[Sequence], filtered: bool) -> DecodeBatch:
        cohort = DecodeBatch(self._model, filtered=filtered)
        cohort.join(sequences)
        return cohort

    def _write(self, steps: int) -> list[StepOutput]:
        """Let the next cohort write."""
        if not self._cohorts:
            return []
        cohort = self._cohorts.popleft()
        self.work += cohort.useful(steps) * (len(cohort) + STEP_ROWS)
        advances = cohort.write(steps)
        self._put_back(cohort)
        return advances

    def _put_back(self, cohort: DecodeBatch) -> None:
        """Queue a cohort up again; a small one goes into another that has room for all of it."""
        if not len(cohort):
            return
        for other in self._cohorts:
            if other.filtered == cohort.filtered and len(other) + len(cohort) <= self._most_rows:
                other.join(cohort.dissolve())
                return
        self._cohorts.append(cohort)

    def _seat(self, sequences: list[Sequence], filtered: bool) -> None:
        """Let sequences join cohorts that have room."""
        for cohort in self._cohorts:
            room = self._most_rows - len(cohort)
            if cohort.filtered == filtered and room > 0:
                cohort.join(sequences[:room])
                sequences = sequences[room:]
        while sequences:
            self._cohorts.append(self._cohort_of(sequences[: self._most_rows], filtered))
            sequences = sequences[self._most_rows :]

    def _take_out(self, sequence: Sequence) -> bool:
        """Take `sequence` from where it is; return whether it was anywhere."""
        if sequence in self._newcomers:
            self._newcomers.remove(sequence)
            return True
        groups: tuple[PrefillQueue | DecodeBatch, ...] = (self._readers, *self._cohorts)
        for group in groups:
            if sequence in group.sequences:
                group.leave([sequence])
                self._cohorts = deque(cohort for cohort in self._cohorts if len(cohort))
                return True
        return False

    def _end_all(self) -> list[StepOutput]:
        groups: tuple[PrefillQueue | DecodeBatch, ...] = (self._readers, *self._cohorts)
        dissolved = [sequence for group in groups for sequence in group.dissolve()]
        sequences = [*dissolved, *self._newcomers, *self._paused]
        self._cohorts, self._newcomers, self._paused, self._collectable = deque(), [], {}, []
        symbols = self._model.symbols
        advances = [s.collect(symbols, Finish.DRAINED, state=s.state) for s in sequences if not s.unfinished]
        for filtered in (False, True):
            within = [s for s in sequences if s.unfinished and s.sampling.filtered == filtered]
            if within:
                advances += self._cohort_of(within, filtered).finish_characters()
        return advances


def _suitable_rows(layers: int, hidden: int) -> int:
    """Return how many rows a cohort of the model should have."""
    products = 4 * hidden**2 * (2 * layers - 1)
    return max(_FEWEST_ROWS, min(_MOST_ROWS, _PRODUCTS // products))
