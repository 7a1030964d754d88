"""How scored texts are read: unknown characters, and what is added before and after."""

from dataclasses import dataclass

from segue.v1 import common_pb2
from segue.v1 import scoring_pb2 as pb
from segue_training.text.vocabulary import UNKNOWN_ID

from segue_server.engine.model import Model
from segue_server.errors import InvalidRequest
from segue_server.validation import check_choice


@dataclass(frozen=True)
class Policies:
    """Policies for one model, all decided."""

    unknown: common_pb2.UnknownPolicy.ValueType
    with_begin: bool
    """Whether a text from the zero state is read after the `begin` character."""
    with_end: bool
    """Whether a text without a final line feed gets one."""
    verbatim: bool
    """Whether a text is read without normalization."""

    def message(self) -> pb.ScoringPolicies:
        """Return the policies for a reply."""
        return pb.ScoringPolicies(
            unknown=self.unknown,
            begin=pb.BEGIN_POLICY_BEGIN if self.with_begin else pb.BEGIN_POLICY_NOTHING,
            end=pb.END_POLICY_LINE_FEED if self.with_end else pb.END_POLICY_NOTHING,
            verbatim=self.verbatim,
        )

    def with_line_feed(self, text: str) -> str:
        """Return the normalized `text`, with the final line feed if the policy adds it."""
        return f"{text}\n" if self.with_end and not text.endswith("\n") else text


def read_policies(asked: pb.ScoringPolicies, model: Model, *, begins: bool = False) -> Policies:
    """Check the policies and fill in defaults; `begins`: whether `begin` is the default for all models."""
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
        raise InvalidRequest(
            "end is END_POLICY_LINE_FEED, and this model has no line feed in its vocabulary: leave it out"
        )
    return Policies(
        unknown=asked.unknown or common_pb2.UNKNOWN_POLICY_REPLACE,
        with_begin=asked.begin == pb.BEGIN_POLICY_BEGIN
        or (asked.begin == pb.BEGIN_POLICY_UNSPECIFIED and (documents or begins)),
        with_end=with_end,
        verbatim=asked.verbatim,
    )
