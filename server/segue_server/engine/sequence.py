"""A running request inside the engine: its state, what it has still to read, and how much it may still write."""

# Shape suffixes: N symbols, L layers, H hidden.

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segue_server.engine.sampling import Floats, Ids, Sampling
from segue_server.engine.scores import Alternatives, joined_alternatives
from segue_server.engine.symbols import Symbols

PARTS: Final = 16
"""That the sequences of an engine are divided into, so that their outputs need not all be collected at once."""
ALL_PARTS: Final = range(PARTS)

NO_IDS: Final[Ids] = np.empty(0, dtype=np.int64)
NO_FLOATS: Final[Floats] = np.empty(0, dtype=np.float64)
OBJECTS: Final = 512
"""Bytes of an output's objects, without what its arrays hold."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the next symbol depends on, apart from the model and the sampling settings.

    (h, c) is the recurrent state before `last` is read: `last` is the input of the next step. So the state after
    a symbol is known as soon as the symbol is, and the first symbol of a part can be scored.
    """

    h: NDArray[np.float32]
    """[layers, hidden]; each value in [-1, 1]."""
    c: NDArray[np.float32]
    """[layers, hidden]; no value beyond `position`, since a step adds at most 1."""
    last: int
    """The id of the last symbol."""
    position: int
    """How many symbols lead to this state, `last` included."""
    seed: int
    """Of the random numbers, 0 to 2^64 - 1."""

    @classmethod
    def after_first(cls, first: int, shape: tuple[int, int], seed: int) -> "State":
        """Return the zero state of `shape` (layers, hidden) with the first symbol of a text, which nothing predicts."""
        zeros = np.zeros(shape, dtype=np.float32)
        return cls(zeros, zeros, first, 1, seed)

    @classmethod
    def of_row(  # noqa: PLR0913 - the fields of a state
        cls,
        h_LH: NDArray[np.float32],
        c_LH: NDArray[np.float32],
        *,
        last: int,
        position: int,
        seed: int,
        end: int | None,
    ) -> "State":
        """Return the state in a row of a batch, as a copy; after `end`, a document's last symbol, the zero state.

        Without negative zeros: they change nothing that follows, and ONNX Runtime's Where does not keep them.
        """
        if last == end:
            h_LH = c_LH = np.zeros_like(h_LH)
        return cls(h_LH + np.float32(0), c_LH + np.float32(0), last, position, seed)


class Status(Enum):
    """Where a sequence is in the engine.

        NEW -> PREFILL -> START -> DECODE -> FINISHED

    Without ids to prefill it begins at START. It can finish, or be aborted, in any status; PREFILL, START and DECODE
    can be PAUSED, from where it resumes at PREFILL or START. `Scheduler` alone changes it.
    """

    NEW = auto()
    PREFILL = auto()
    """Reads its `prefill_ids`."""
    START = auto()
    """Decodes for the first time at the next tick, before the others, so that its first symbols come soon."""
    DECODE = auto()
    """Has a row of a decode batch."""
    PAUSED = auto()
    """Costs no ticks."""
    FINISHED = auto()
    """The engine has forgotten it."""


class Finish(Enum):
    """Why a sequence ended."""

    LENGTH = auto()
    """All that it was to read is read, and all that it might write is written."""
    STOP = auto()
    """A stop string is complete."""
    END = auto()
    """The model ended the document. The next one begins from this state."""
    DRAINED = auto()
    """The engine was told to end every sequence; this one can be continued elsewhere from its state."""
    FAULT = auto()
    """The model's results were not finite; only this sequence ends."""


class StopStrings:
    """Finds the first of several strings to be completed by a stream of ids."""

    def __init__(self, stops: Iterable[tuple[int, ...]] = (), before: Ids = NO_IDS) -> None:
        """`before`: the ids written so far, in which one of `stops` may begin."""
        self._stops = [_as_text(np.array(stop, dtype=np.int64)) for stop in stops]
        self._longest = max(map(len, self._stops), default=0)
        self._tail = self._beginning(_as_text(before))

    def __bool__(self) -> bool:
        return bool(self._stops)

    def _beginning(self, text: str) -> str:
        """Return the end of `text` that may be the beginning of a stop string."""
        return text[max(0, len(text) - self._longest + 1) :]

    def find(self, ids_N: Ids) -> tuple[int, int] | None:
        """Take the next ids; return how many of them complete a stop string and its index, or None.

        Of several that are completed by the same symbol, it is the first in order.
        """
        text, known = self._tail + _as_text(ids_N), len(self._tail)
        found = [text.find(stop, max(0, known - len(stop) + 1)) for stop in self._stops]
        ends = [(at + len(self._stops[i]), i) for i, at in enumerate(found) if at >= 0]
        self._tail = self._beginning(text)
        if not ends:
            return None
        end, index = min(ends)
        return end - known, index


def _as_text(ids_N: Ids) -> str:
    """Return one character for each id: strings are searched in C."""
    return ids_N.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


@dataclass(eq=False, slots=True)
class Sequence:
    """One request in the engine: first reads `prefill_ids`, then writes up to `max_characters` characters.

    Only the state that a text begins with may be inside a character, the first one; its rest is in `prefill_ids`. The
    symbol that ends a document can only be the last of `prefill_ids`, with `max_characters` 0.
    """

    state: State
    """Stale while the sequence is in a decode batch; its row holds the live state."""
    prefill_ids: Ids
    """Ids still to be read. The engine takes them from the front."""
    max_characters: int = 0
    """How many characters it may still write."""
    sampling: Sampling = field(default_factory=Sampling)
    stops: StopStrings = field(default_factory=StopStrings)
    score_prefill: bool = False
    """Whether to return the log-probabilities of the characters that it reads."""
    rank_prefill: bool = False
    """Whether to return the ranks of the characters that it reads, each of which is one symbol."""
    alternatives_prefill: int = 0
    """How many of the likeliest symbols to return for each symbol that it reads."""
    score_decode: bool = False
    """Whether to return the log-probabilities of the characters that it writes."""
    alternatives: int = 0
    """How many of the likeliest symbols to return for each symbol that it writes."""
    keep_state: bool = True
    """Whether to return its last state. That costs a few steps more."""
    marks: tuple[int, ...] = ()
    """Positions, ascending, at which its state is returned during prefill. They are ends of characters."""
    state_interval: int = 0
    """During decode its state is returned with the first output that ends at least this many symbols after the last
    returned state. 0: never."""
    tenant: str = ""
    """On whose behalf it runs: where not all sequences find room in a run, tenants share its rows."""
    unfinished: int = 0
    """How many symbols of an incomplete character it has written. The last of them is `state.last`."""
    spelling: int = 0
    """The state of the automaton of `symbols` after them."""
    status: Status = field(default=Status.NEW, init=False)
    prefill_scores: list[Floats] = field(default_factory=list)
    """Log-probabilities of the characters read since the last output."""
    prefill_ranks: list[Ids] = field(default_factory=list)
    decoded_ids: list[Ids] = field(default_factory=list)
    """What it wrote since the last output. The last `unfinished` symbols must not be returned yet."""
    decoded_scores: list[Floats] = field(default_factory=list)
    """One for each of `decoded_ids`, if they are asked for."""
    alternatives_found: list[Alternatives] = field(default_factory=list)
    alternatives_bytes: int = 0
    """What `alternatives_found` holds."""
    position: int = 0
    """How many symbols there are up to the last character that was read or returned."""
    reported: int = 0
    """The position up to which its outputs account for what it read and wrote."""
    part: int = 0
    """Of `PARTS`: the outputs of one part are collected together."""
    state_given: int = 0
    """The position of the state that was last returned during decode, at first that at which decode begins."""

    def __post_init__(self) -> None:
        if len(self.prefill_ids) + self.max_characters < 1:
            raise ValueError("a sequence needs a symbol to read or a character to write")
        self.position = self.reported = self.state.position
        self.state_given = self.position + len(self.prefill_ids)

    @property
    def unread(self) -> int:
        """How many symbols it still has to read. Any thread may ask."""
        return len(self.prefill_ids)

    @property
    def scored(self) -> bool:
        """Whether it needs the log-probabilities of what it writes."""
        return self.score_decode or self.alternatives > 0

    @property
    def needs_details(self) -> bool:
        """Whether it needs to know how the symbols that it reads compare with all others."""
        return self.rank_prefill or self.alternatives_prefill > 0

    @property
    def state_due(self) -> bool:
        """Whether to return its state after all that it wrote."""
        if not self.state_interval or self.unfinished:
            return False
        return self.position + sum(map(len, self.decoded_ids)) - self.state_given >= self.state_interval

    def collect(
        self, symbols: Symbols, finish: Finish | None = None, stop: int | None = None, state: State | None = None
    ) -> "StepOutput":
        """Return the whole characters that it read and wrote since the last output; `state` is the one after them."""
        ids = _taken(self.decoded_ids, self.unfinished, NO_IDS)
        scores = _taken(self.decoded_scores, self.unfinished, NO_FLOATS)
        if len(scores):
            scores = symbols.by_character(scores, ids)
        if self.prefill_scores:
            scores = np.concatenate([*self.prefill_scores, scores])
            self.prefill_scores = []
        alternatives = joined_alternatives(self.alternatives_found)
        self.alternatives_found, self.alternatives_bytes = [], 0
        ranks = _taken(self.prefill_ranks, 0, NO_IDS)
        self.position += len(ids)
        since, self.reported = self.position - self.reported, self.position
        if state is not None:
            self.state_given = state.position
        return StepOutput(self, ids, scores, self.position, alternatives, ranks, finish, stop, state, since)


def _taken(parts: list[Any], unfinished: int, nothing: Any) -> Any:
    """Take everything but the last `unfinished` values out of `parts` and return it as one array."""
    if not parts:
        return nothing
    whole = np.concatenate(parts)  # a copy also of a single part, which is a view of what a whole batch wrote
    parts.clear()
    if unfinished:
        parts.append(whole[-unfinished:])
        whole = whole[:-unfinished]
    return whole


@dataclass(slots=True)
class StepOutput:
    """What one sequence read and wrote since its last output."""

    sequence: Sequence
    written: Ids
    """The symbols that it wrote: whole characters."""
    log_probabilities: Floats
    """One for each character read and written, as far as the sequence asks for them."""
    position: int
    """How many symbols there are up to the last of these characters."""
    alternatives: Alternatives | None = None
    """For each symbol read or written, if the sequence asks for them."""
    ranks: Ids = field(default_factory=lambda: NO_IDS)
    """For each symbol read, if the sequence asks for them: how many symbols were likelier, plus 1."""
    finish: Finish | None = None
    """Set in the last output of a sequence."""
    stop: int | None = None
    """The index of the stop string that ended it."""
    state: State | None = None
    """The state after the last character: in the last output, if a sequence that wrote keeps it; in others at a mark,
    or when one was due."""
    symbols: int = 0
    """How many symbols it read and wrote since its last output."""

    @property
    def has_content(self) -> bool:
        """Whether there is anything to deliver."""
        return len(self.written) > 0 or len(self.log_probabilities) > 0

    @property
    def nbytes(self) -> int:
        """What it holds of memory, about, in bytes."""
        arrays = self.written.nbytes + self.log_probabilities.nbytes + self.ranks.nbytes
        alternatives = 0 if self.alternatives is None else self.alternatives.nbytes
        state = 0 if self.state is None else self.state.h.nbytes + self.state.c.nbytes
        return OBJECTS + arrays + alternatives + state
