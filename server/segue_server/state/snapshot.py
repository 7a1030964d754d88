"""States with their sampling settings as bytes, for tickets and sessions.

Little-endian, nothing optional:

    seed         8 bytes   unsigned
    position     8 bytes   unsigned
    last         4 bytes   unsigned, id of the last symbol
    top_k        4 bytes   unsigned
    temperature  8 bytes   float64
    top_p        8 bytes   float64
    min_p        8 bytes   float64
    h         4 LH bytes   float32 [layers, hidden]
    c         4 LH bytes   float32 [layers, hidden]

The bytes were sealed. Their values are checked anyway: only a state that the model can reach is accepted.
"""

import struct
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from segue_server.engine.model import Model
from segue_server.engine.sampling import Floats32, Sampling
from segue_server.engine.sequence import State
from segue_server.limits import LIMITS

_HEADER: Final = struct.Struct("<QQIIddd")
_LAST_POSITION: Final = 2**62
"""Beyond any text, and no sum of positions overflows 64 bits."""
_ROUNDED_ONE: Final = 1 + 1e-6
"""The largest tanh that float32 kernels return: some exceed 1 by two units in the last place."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state, and the sampling settings of the text."""

    state: State
    sampling: Sampling
    """Without biases: they belong to a request."""

    @classmethod
    def of(cls, state: State, sampling: Sampling) -> "Snapshot":
        """Return the snapshot of `state` under `sampling`."""
        return cls(state, replace(sampling, bias=(), allowed=frozenset()))


def pack(snapshot: Snapshot) -> bytes:
    """Return the bytes of `snapshot`."""
    state, sampling = snapshot.state, snapshot.sampling
    header = _HEADER.pack(
        *(state.seed, state.position, state.last),
        *(sampling.top_k, sampling.temperature, sampling.top_p, sampling.min_p),
    )
    return header + state.h.astype("<f4").tobytes() + state.c.astype("<f4").tobytes()


def packed_bytes(model: Model) -> int:
    """Return the size of every snapshot of `model`."""
    layers, hidden = model.state_shape
    return _HEADER.size + 2 * 4 * layers * hidden


def unpack(packed: bytes, model: Model) -> Snapshot | None:
    """Return the packed snapshot; None for one that no text leads `model` to."""
    if len(packed) != packed_bytes(model):
        return None
    seed, position, last, top_k, temperature, top_p, min_p = _HEADER.unpack_from(packed)
    h, c = np.frombuffer(packed, dtype="<f4", offset=_HEADER.size).reshape(2, *model.state_shape)
    reachable = bool(np.all(np.abs(h) <= _ROUNDED_ONE) and np.all(np.abs(c) <= position * _ROUNDED_ONE))  # no NaN
    usable = 0 <= temperature <= LIMITS.max_temperature and 0 < top_p <= 1 and 0 <= min_p < 1  # no NaN
    if not (reachable and usable and 1 <= position <= _LAST_POSITION and _may_be_last(last, h, c, model)):
        return None
    state = State(h.astype(np.float32), c.astype(np.float32), last, position, seed)
    return Snapshot(state, Sampling(temperature, top_k, top_p, min_p))


def _may_be_last(last: int, h: Floats32, c: Floats32, model: Model) -> bool:
    """Whether `last` ends a character; and if it ends a document, whether the state is zero."""
    if last >= len(model.vocabulary) or not model.symbols.may_end[last]:
        return False
    return last != model.symbols.end or not (h.any() or c.any())
