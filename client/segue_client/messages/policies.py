"""How a text is read when it is scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from segue.v1 import common_pb2, scoring_pb2

from segue_client.errors import InvalidRequest, ServerFault
from segue_client.messages.generation_request import UnknownPolicy, unknown_policy

BeginPolicy = Literal["nothing", "begin"]
"""What precedes a text from the zero state: nothing, so that its first character is read but not scored; or the model's
`begin` character, so that every character is scored."""

EndPolicy = Literal["nothing", "line-feed"]
"""Whether the end of a text is scored: not at all; or as a line feed, which is added unless the text ends with one."""

_UNKNOWN: Final[dict[common_pb2.UnknownPolicy.ValueType, UnknownPolicy]] = {
    common_pb2.UNKNOWN_POLICY_REPLACE: "replace",
    common_pb2.UNKNOWN_POLICY_REFUSE: "refuse",
}
_BEGIN: Final[dict[scoring_pb2.BeginPolicy.ValueType, BeginPolicy]] = {
    scoring_pb2.BEGIN_POLICY_NOTHING: "nothing",
    scoring_pb2.BEGIN_POLICY_BEGIN: "begin",
}
_END: Final[dict[scoring_pb2.EndPolicy.ValueType, EndPolicy]] = {
    scoring_pb2.END_POLICY_NOTHING: "nothing",
    scoring_pb2.END_POLICY_LINE_FEED: "line-feed",
}


@dataclass(frozen=True, kw_only=True)
class ScoringPolicies:
    """How to read a text; in a Score, how it was read."""

    unknown: UnknownPolicy = "replace"
    begin: BeginPolicy | None = None
    """None (in requests only): "begin" for a model of documents and for candidates, otherwise "nothing"."""
    end: EndPolicy = "nothing"
    verbatim: bool = False
    """Whether the text is read as it is, without the model's normalization: for a text that the model wrote."""


def policies_message(policies: ScoringPolicies) -> scoring_pb2.ScoringPolicies:
    """Translate the policies of a request; raise InvalidRequest for an unknown one."""
    begin = policies.begin
    return scoring_pb2.ScoringPolicies(
        unknown=unknown_policy(policies.unknown),
        begin=scoring_pb2.BEGIN_POLICY_UNSPECIFIED if begin is None else _number("begin", begin, _BEGIN),
        end=_number("end", policies.end, _END),
        verbatim=policies.verbatim,
    )


def policies_from(message: scoring_pb2.ScoringPolicies) -> ScoringPolicies:
    """Translate the policies of a reply; raise ServerFault if one is missing."""
    if message.unknown not in _UNKNOWN or message.begin not in _BEGIN or message.end not in _END:
        raise ServerFault("the server did not say how it read the text")
    return ScoringPolicies(
        unknown=_UNKNOWN[message.unknown],
        begin=_BEGIN[message.begin],
        end=_END[message.end],
        verbatim=message.verbatim,
    )


_Number = TypeVar("_Number", bound=int)
_Policy = TypeVar("_Policy", bound=str)


def _number(field: str, policy: _Policy, policies: Mapping[_Number, _Policy]) -> _Number:
    for number, name in policies.items():
        if name == policy:
            return number
    raise InvalidRequest(f"{field} is {policy!r}; choose one of {', '.join(policies.values())}")
