"""The texts of a request as ids, and the state that a fresh text begins with."""

import numpy as np
from segue.v1 import common_pb2
from segue_training.text.normalization import Normalizer
from segue_training.text.vocabulary import UNKNOWN_ID

from segue_server.engine.model import Model
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import State
from segue_server.errors import InvalidRequest


def normalizer(model: Model, state: State | None) -> Normalizer:
    """Return what normalizes a text behind `state`, None for one that begins."""
    after = "" if state is None else model.vocabulary.decode([state.last])
    return Normalizer(model.manifest.normalization, begins=state is None, after=after)


def normalized_behind(state: State | None, text: str, model: Model) -> str:
    """Return a text that comes whole as the model's text is written, behind `state`, None for one that begins."""
    whole = normalizer(model, state)
    return whole.feed(text) + whole.end()


def begin(ids: Ids, seed: int, model: Model, *, with_begin: bool = False) -> tuple[State, Ids]:
    """Return the state after the first symbol of a fresh text, and the ids still to be read.

    A document has the begin symbol before it; so has a text of no symbols, and any text `with_begin`.
    """
    if with_begin or model.symbols.end is not None or not len(ids):
        ids = np.concatenate([model.vocabulary.encode(model.manifest.begin), ids])
    return State.after_first(int(ids[0]), model.state_shape, seed), ids[1:]


def check_line_feeds(field: str, text: str, model: Model, *, first: int = 0) -> None:
    """Refuse more than one document where a line feed ends a document; `first` characters stand before `text`."""
    at = text.find("\n")
    if model.symbols.end is not None and at >= 0:
        raise InvalidRequest(
            f"{field}: the line feed at position {first + at:,} would end a document of this model; "
            "leave it out, or send each line in a text of its own"
        )


def encode(
    field: str, text: str, model: Model, policy: common_pb2.UnknownPolicy.ValueType, *, first: int = 0
) -> tuple[Ids, int]:
    """Return the ids of the normalized text, before which `first` characters stand; and how many are `<unk>`."""
    ids = model.vocabulary.encode(text)
    unknown = np.flatnonzero(ids == UNKNOWN_ID)
    if len(unknown) and policy == common_pb2.UNKNOWN_POLICY_REFUSE:
        at = int(unknown[0])
        raise InvalidRequest(
            f"{field}: character {text[at]!r} at position {first + at} is not in the model's vocabulary; "
            "leave it out, or let unknown_policy replace it by <unk>"
        )
    return ids, len(unknown)
