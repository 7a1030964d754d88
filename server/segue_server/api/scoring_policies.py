"""How a text is read that is scored: what becomes of unknown characters, what stands before and behind it."""

from dataclasses import dataclass

from segue.v1 import common_pb2
from segue.v1 import scoring_pb2 as pb
from segue_training.text.vocabulary import UNKNOWN_ID

from segue_server.engine.model import Model
from segue_server.errors import InvalidRequest
from segue_server.validation import check_choice


@dataclass(frozen=True)
class Policies:
    """Policies that suit a model; none of them is left open."""

    unknown: common_pb2.UnknownPolicy.ValueType
    with_begin: bool
    """Whether a text from the zero state has the `begin` character before it."""
    with_end: bool
    """Whether a text gets the line feed that ends it, where it has none."""

    def message(self) -> pb.ScoringPolicies:
        """Return what a reply says."""
        return pb.ScoringPolicies(
            unknown=self.unknown,
            begin=pb.BEGIN_POLICY_BEGIN if self.with_begin else pb.BEGIN_POLICY_NOTHING,
            end=pb.END_POLICY_LINE_FEED if self.with_end else pb.END_POLICY_NOTHING,
        )

    def ended(self, text: str) -> str:
        """Return the normalized `text` with its end."""
        return f"{text}\n" if self.with_end and not text.endswith("\n") else text


def read_policies(asked: pb.ScoringPolicies, model: Model, *, begins: bool = False) -> Policies:
    """Check what was asked and settle what was not; `begins`: whether `begin` is the default for every model."""
    for field, value, known in (
        ("unknown", asked.unknown, common_pb2.UnknownPolicy),
        ("begin", asked.begin, pb.BeginPolicy),
        ("end", asked.end, pb.EndPolicy),
    ):
        check_choice(f"policies.{field}", value, known)
    documents = model.symbols.end is not None
    if documents and asked.begin == pb.BEGIN_POLICY_NOTHING:
        raise InvalidRequest(
            "begin is BEGIN_POLICY_NOTHING; documents of this model begin with a line feed: leave it out"
        )
    with_end = asked.end == pb.END_POLICY_LINE_FEED
    if with_end and model.vocabulary.line_feed == UNKNOWN_ID:
        raise InvalidRequest("end is END_POLICY_LINE_FEED, and this model does not know the line feed: leave it out")
    return Policies(
        unknown=asked.unknown or common_pb2.UNKNOWN_POLICY_REPLACE,
        with_begin=asked.begin == pb.BEGIN_POLICY_BEGIN
        or (asked.begin == pb.BEGIN_POLICY_UNSPECIFIED and (documents or begins)),
        with_end=with_end,
    )
