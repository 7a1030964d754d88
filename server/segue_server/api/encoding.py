"""A request's texts as ids, and the state that a new text starts with. Long texts are read in steps."""

from dataclasses import replace
from functools import cache
from typing import Any, Final

import numpy as np
from segue.v1 import common_pb2
from segue_training.text.normalization import Normalizer
from segue_training.text.vocabulary import UNKNOWN_ID

from segue_server.engine.model import Model
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import State
from segue_server.errors import InvalidRequest
from segue_server.limits import LIMITS
from segue_server.runtime.time_slices import Steps
from segue_server.validation import check_at_most

PART: Final = 16_384
"""Characters of a text that are read in one step."""
_COMPOSED_PART: Final = 1_024
"""The same where characters may be composed, at up to a microsecond each."""

_ANY_MARKS: Final = "é" + "\u0301\u0323" * 32


def normalizer_after(state: State | None, model: Model, *, verbatim: bool = False) -> Normalizer:
    """Return a normalizer for text after `state`; None: the text begins. `verbatim`: one that changes nothing."""
    if verbatim:
        return Normalizer.verbatim()
    last = "" if state is None else model.vocabulary.decode([state.last])
    return Normalizer(model.manifest.normalization, begins=state is None, after=last)


def prepare_normalization(model: Model) -> None:
    """Have the tables made that the model's normalization needs: that takes a second, which no call should wait for."""
    normalizer = normalizer_after(None, model)
    normalizer.feed(_ANY_MARKS)
    normalizer.end()


def normalize_after(field: str, state: State | None, text: str, model: Model, *, verbatim: bool = False) -> Steps[str]:
    """Normalize a whole text after `state`, unless it is `verbatim`; None: the text begins. Raises InvalidRequest."""
    normalizer = normalizer_after(state, model, verbatim=verbatim)
    normalized = yield from normalize_piece(field, text, normalizer)
    return normalized + normalizer.end()


def normalize_piece(field: str, piece: str, normalizer: Normalizer) -> Steps[str]:
    """Return the normalized text that no further piece can change; raises InvalidRequest if that leaves too much."""
    size = PART if piece.isascii() else _COMPOSED_PART
    if len(piece) <= size:  # nearly always
        return _fed(field, piece, normalizer)
    parts = []
    for at in range(0, len(piece), size):
        yield
        parts.append(_fed(field, piece[at : at + size], normalizer))
    return "".join(parts)


def _fed(field: str, piece: str, normalizer: Normalizer) -> str:
    normalized, held_count = normalizer.feed(piece), normalizer.held_count
    check_at_most(f"characters of {field} that a next one may still change", held_count, LIMITS.max_held_back)
    return normalized


def start_text(ids: Ids, seed: int, model: Model, *, with_begin: bool = False) -> tuple[State, Ids]:
    """Return the state after the first symbol of a new text, and all its ids.

    Documents, empty texts, and texts `with_begin` start with the begin symbol.
    """
    if with_begin or model.symbols.end is not None or not len(ids):
        ids = np.concatenate([model.vocabulary.encode(model.manifest.begin).astype(ids.dtype), ids])
    return replace(_zero_state(model.state_shape), last=int(ids[0]), seed=seed), ids


@cache
def _zero_state(shape: tuple[int, int]) -> State:
    """Return the state that all texts of a model begin with: thousands wait at once, and a state is some KB."""
    state = State.after_first(0, shape, 0)
    state.h.flags.writeable = state.c.flags.writeable = False
    return state


def check_line_feeds(field: str, text: str, model: Model, *, offset: int = 0) -> None:
    """Refuse a line feed in `text` if it would end a document; positions in the message count from `offset`."""
    at = text.find("\n")
    if model.symbols.end is not None and at >= 0:
        raise InvalidRequest(
            f"{field}: the line feed at position {offset + at:,} would end a document of this model; "
            "leave it out, or send each line in a text of its own"
        )


def encode(
    field: str, text: str, model: Model, policy: common_pb2.UnknownPolicy.ValueType, *, offset: int = 0
) -> Steps[tuple[Ids, Ids]]:
    """Return the ids of a normalized text, and the positions among them that are `<unk>`.

    Raises InvalidRequest if `policy` refuses unknown characters; its message counts positions from `offset`.
    """
    if len(text) <= PART:  # nearly always
        return _encoded(field, text, model, policy, offset)
    ids, unknown_at, count = [], [], 0
    for at in range(0, len(text), PART):
        yield
        some, unknown = _encoded(field, text[at : at + PART], model, policy, offset + at)
        ids.append(some)
        unknown_at.append(unknown + count)
        count += len(some)
    yield
    return np.concatenate(ids), np.concatenate(unknown_at)


def _encoded(
    field: str, text: str, model: Model, policy: common_pb2.UnknownPolicy.ValueType, offset: int
) -> tuple[Ids, Ids]:
    ids: Ids = model.vocabulary.encode(text).astype(id_type(len(model.vocabulary)))
    unknown_at = np.flatnonzero(ids == UNKNOWN_ID)
    if len(unknown_at) and policy == common_pb2.UNKNOWN_POLICY_REFUSE:
        at = int(unknown_at[0])
        raise InvalidRequest(
            f"{field}: character {text[at]!r} at position {offset + at} is not in the model's vocabulary; "
            "leave it out, or let unknown_policy replace it by <unk>"
        )
    return ids, unknown_at


@cache
def id_type(symbol_count: int) -> np.dtype[Any]:
    """Return the smallest type for the ids of a vocabulary: while a text waits, they are most of what it holds."""
    return np.min_scalar_type(symbol_count - 1)
