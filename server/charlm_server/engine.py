"""The engine: cellular batching of sequences, without I/O, threads, clock or global randomness.

Each tick advances every running sequence by up to `steps` symbols, or the few more that complete a character, and
the sequences of a tick share the matrix products (P. Gao et al., "Low Latency RNN Inference with Cellular Batching",
EuroSys 2018). A sequence joins at the tick after it was added and leaves at the tick in which it ends.

Two groups share a tick, by what they do in it:

    reading  every row reads `steps` symbols that are known: one run over [rows, steps]
    writing  some symbol depends on the one before it: `steps` runs over [rows, 1]

A state belongs to its sequence, never to a row: rows are gathered before and scattered after each tick. It always
stands at the end of a character (see `symbols`), so rows that read to different ends are run apart.
"""

# Shape suffixes: L layers, B rows (sequences of the tick), K steps of the tick, H hidden units, V symbols.

from collections import defaultdict, deque
from typing import Final

import numpy as np

from charlm_server.model import Floats32, Model
from charlm_server.sampling import Floats, Ids, finite_rows, log_probabilities
from charlm_server.sequence import Advance, Finish, Sequence, State
from charlm_server.tick import WritingTick

_NO_IDS: Final = np.empty(0, dtype=np.int64)
_NO_FLOATS: Final = np.empty(0, dtype=np.float64)


class Engine:
    """Advances sequences together. Not thread-safe: one caller at a time."""

    def __init__(self, model: Model, max_running: int) -> None:
        """Run `model` with at most `max_running` sequences in a tick; the others wait in order of arrival."""
        self._model = model
        self._symbols = model.symbols
        self._max_running = max_running
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()
        self._paused: set[Sequence] = set()
        self._draining = False

    def __len__(self) -> int:
        """How many sequences are alive: running, waiting or paused."""
        return len(self._running) + len(self._waiting) + len(self._paused)

    @property
    def rows(self) -> int:
        """How many sequences the next tick will advance."""
        return min(len(self._running) + len(self._waiting), self._max_running)

    @property
    def idle(self) -> bool:
        """Whether a tick would have nothing to do."""
        return not (self._running or self._waiting or (self._draining and self._paused))

    def add(self, sequence: Sequence) -> None:
        """Let `sequence` join at the next tick that has room."""
        self._waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget `sequence`; no advance of it follows. Does nothing where it has ended."""
        for group in (self._running, self._waiting):
            if sequence in group:
                group.remove(sequence)
        self._paused.discard(sequence)

    def pause(self, sequence: Sequence) -> None:
        """Keep `sequence`, but spend no tick on it until it is resumed. Does nothing where it has ended."""
        if sequence in self._running or sequence in self._waiting:
            self.abort(sequence)
            self._paused.add(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Let a paused sequence join again."""
        if sequence in self._paused:
            self._paused.remove(sequence)
            self._waiting.append(sequence)

    def drain(self) -> None:
        """Make the next tick end every sequence where it stands, with Finish.DRAINED."""
        self._draining = True

    def step(self, steps: int) -> list[Advance]:
        """Run one tick of up to `steps` symbols for each running sequence, and on to the end of its character."""
        if self._draining:
            return self._end_all()
        reading, writing = self._schedule(steps)
        advances = [advance for length, group in reading.items() for advance in self._read(group, length)]
        advances += self._write(writing, steps)
        self._running = [advance.sequence for advance in advances if advance.finish is None]
        return advances

    def _schedule(self, steps: int) -> tuple[dict[int, list[Sequence]], list[Sequence]]:
        """Fill free places from the queue; return who reads, by the number of symbols, and who writes."""
        while self._waiting and len(self._running) < self._max_running:
            self._running.append(self._waiting.popleft())
        reading: dict[int, list[Sequence]] = defaultdict(list)
        for sequence in self._running:
            if len(sequence.forced) >= steps:
                reading[self._symbols.whole(sequence.forced, steps)].append(sequence)
        return reading, [sequence for sequence in self._running if len(sequence.forced) < steps]

    def _read(self, sequences: list[Sequence], steps: int) -> list[Advance]:
        """Advance sequences that all read `steps` known symbols: one run."""
        targets_BK = np.stack([sequence.forced[:steps] for sequence in sequences])
        tokens_BK = np.column_stack([[sequence.state.last for sequence in sequences], targets_BK[:, :-1]])
        logits_BKV, h_LBH, c_LBH = self._model.run(tokens_BK, *_gather(sequences))
        finite_B = finite_rows(logits_BKV)
        advances = []
        for row, sequence in enumerate(sequences):
            if not finite_B[row]:
                advances.append(Advance(sequence, _NO_IDS, _NO_FLOATS, sequence.state, Finish.FAULT))
                continue
            scores = self._scores(logits_BKV[row], targets_BK[row]) if sequence.score_forced else _NO_FLOATS
            sequence.forced = sequence.forced[steps:]
            self._move(sequence, h_LBH[:, row], c_LBH[:, row], int(targets_BK[row, -1]), steps)
            finish = None if sequence.remaining else Finish.LENGTH
            advances.append(Advance(sequence, _NO_IDS, scores, sequence.state, finish))
        return advances

    def _write(self, sequences: list[Sequence], steps: int) -> list[Advance]:
        """Advance sequences of which each reads what is left, then writes: one run a step."""
        if not sequences:
            return []
        tick = WritingTick(sequences, self._symbols, steps)
        h_LBH, c_LBH = _gather(sequences)
        last_B = np.array([sequence.state.last for sequence in sequences])
        step = 0
        while step < tick.length:
            logits_B1V, h_LBH, c_LBH = self._model.run(last_B[:, np.newaxis], h_LBH, c_LBH)
            last_B = tick.take(step, logits_B1V[:, 0])
            step += 1
            for row in tick.ending(step):
                self._move(sequences[row], h_LBH[:, row], c_LBH[:, row], int(last_B[row]), step)
        return tick.advances()

    def _scores(self, logits_KV: Floats32, targets_K: Ids) -> Floats:
        """Return the log-probability of each character."""
        return self._symbols.by_character(log_probabilities(logits_KV, targets_K), targets_K)

    def _move(self, sequence: Sequence, h_LH: Floats32, c_LH: Floats32, last: int, steps: int) -> None:
        """Give `sequence` the state that it has `steps` symbols further on."""
        state = sequence.state
        if last == self._symbols.end:  # of a document: (h, c) is what the next one begins from
            h_LH = c_LH = np.zeros_like(h_LH)
        sequence.state = State(h_LH.copy(), c_LH.copy(), last, state.position + steps, state.seed)

    def _end_all(self) -> list[Advance]:
        ended = [*self._running, *self._waiting, *self._paused]
        self._running, self._waiting, self._paused = [], deque(), set()
        return [Advance(s, _NO_IDS, _NO_FLOATS, s.state, Finish.DRAINED) for s in ended]


def _gather(sequences: list[Sequence]) -> tuple[Floats32, Floats32]:
    """Return the states of the sequences as h and c, each [L, B, H]."""
    return (
        np.stack([sequence.state.h for sequence in sequences], axis=1),
        np.stack([sequence.state.c for sequence in sequences], axis=1),
    )
