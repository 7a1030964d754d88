"""A request's texts as ids, and the state that a new text starts with."""

import numpy as np
from segue.v1 import common_pb2
from segue_training.text.normalization import Normalizer
from segue_training.text.vocabulary import UNKNOWN_ID

from segue_server.engine.model import Model
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import State
from segue_server.errors import InvalidRequest


def normalizer_after(state: State | None, model: Model) -> Normalizer:
    """Return a normalizer for text after `state`; None: the text begins."""
    last = "" if state is None else model.vocabulary.decode([state.last])
    return Normalizer(model.manifest.normalization, begins=state is None, after=last)


def normalize_after(state: State | None, text: str, model: Model) -> str:
    """Normalize a whole text after `state`; None: the text begins."""
    normalizer = normalizer_after(state, model)
    return normalizer.feed(text) + normalizer.end()


def start_text(ids: Ids, seed: int, model: Model, *, with_begin: bool = False) -> tuple[State, Ids]:
    """Return the state after the first symbol of a new text, and the remaining ids.

    Documents, empty texts, and texts `with_begin` start with the begin symbol.
    """
    if with_begin or model.symbols.end is not None or not len(ids):
        ids = np.concatenate([model.vocabulary.encode(model.manifest.begin), ids])
    return State.after_first(int(ids[0]), model.state_shape, seed), ids[1:]


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
) -> tuple[Ids, Ids]:
    """Return the ids of a normalized text, and the positions among them that are `<unk>`.

    Raises InvalidRequest if `policy` refuses unknown characters; its message counts positions from `offset`.
    """
    ids = model.vocabulary.encode(text)
    unknown_at = np.flatnonzero(ids == UNKNOWN_ID)
    if len(unknown_at) and policy == common_pb2.UNKNOWN_POLICY_REFUSE:
        at = int(unknown_at[0])
        raise InvalidRequest(
            f"{field}: character {text[at]!r} at position {offset + at} is not in the model's vocabulary; "
            "leave it out, or let unknown_policy replace it by <unk>"
        )
    return ids, unknown_at
