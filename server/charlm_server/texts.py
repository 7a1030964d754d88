"""The texts of a request as ids, and the state that a fresh text begins with."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from charlm.v1 import start_pb2
from charlm_training.normalization import Normalizer
from charlm_training.vocabulary import UNKNOWN_ID

from charlm_server.errors import InvalidRequest
from charlm_server.model import Model
from charlm_server.sampling import Ids
from charlm_server.sequence import State


class Choices(Protocol):
    """An enumeration of the contract; its first value stands for none."""

    def keys(self) -> Sequence[str]:
        """Return the names."""

    def values(self) -> Sequence[int]:
        """Return the numbers."""


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
    field: str, text: str, model: Model, policy: start_pb2.UnknownPolicy.ValueType, *, first: int = 0
) -> tuple[Ids, int]:
    """Return the ids of the normalized text, before which `first` characters stand; and how many are `<unk>`."""
    ids = model.vocabulary.encode(text)
    unknown = np.flatnonzero(ids == UNKNOWN_ID)
    if len(unknown) and policy == start_pb2.UNKNOWN_POLICY_REFUSE:
        at = int(unknown[0])
        raise InvalidRequest(
            f"{field}: character {text[at]!r} at position {first + at} is not in the model's vocabulary; "
            "leave it out, or let unknown_policy replace it by <unk>"
        )
    return ids, len(unknown)


def check_choice(field: str, value: int, choices: Choices) -> None:
    """Refuse a number that names none of `choices`."""
    if value not in choices.values():
        raise InvalidRequest(f"{field} is {value}; choose one of {', '.join(choices.keys()[1:])}")


def check_at_most(what: str, value: int, limit: int) -> None:
    """Refuse `value` where it is above `limit`."""
    if value > limit:
        raise InvalidRequest(f"{what}: {value:,}; at most {limit:,} are allowed")
