"""How a text is read when it is scored."""

from dataclasses import dataclass
from typing import Final, Literal

from segue.v1 import common_pb2, scoring_pb2

from segue_client.errors import InvalidRequest, ServerFault
from segue_client.messages.generation_request import UnknownPolicy, unknown_policy

BeginPolicy = Literal["nothing", "begin"]
"""What stands before the first character of a text from the zero state: nothing, so that it is read and not scored; or
the model's `begin` character, so that every character is scored."""

EndPolicy = Literal["nothing", "line-feed"]
"""Whether the end of a text is scored: not; or as the line feed, which is added where the text has none."""

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
    """How a text is to be read; in a Score, how it was."""

    unknown: UnknownPolicy = "replace"
    begin: BeginPolicy | None = None
    """None, in a request alone: "begin" for a model of documents and for candidates, otherwise "nothing"."""
    end: EndPolicy = "nothing"


DEFAULT_POLICIES: Final = ScoringPolicies()


def policies_message(policies: ScoringPolicies) -> scoring_pb2.ScoringPolicies:
    """Translate what a request asks for; raise InvalidRequest for a policy that there is not."""
    return scoring_pb2.ScoringPolicies(
        unknown=unknown_policy(policies.unknown),
        begin=scoring_pb2.BEGIN_POLICY_UNSPECIFIED if policies.begin is None else _begin(policies.begin),
        end=_end(policies.end),
    )


def policies_from(message: scoring_pb2.ScoringPolicies) -> ScoringPolicies:
    """Translate what a reply says; raise ServerFault where it does not say it."""
    if message.unknown not in _UNKNOWN or message.begin not in _BEGIN or message.end not in _END:
        raise ServerFault("the server did not say how it read the text")
    return ScoringPolicies(unknown=_UNKNOWN[message.unknown], begin=_BEGIN[message.begin], end=_END[message.end])


def _begin(policy: BeginPolicy) -> scoring_pb2.BeginPolicy.ValueType:
    for number, name in _BEGIN.items():
        if name == policy:
            return number
    raise InvalidRequest(f"begin is {policy!r}; choose one of {', '.join(_BEGIN.values())}")


def _end(policy: EndPolicy) -> scoring_pb2.EndPolicy.ValueType:
    for number, name in _END.items():
        if name == policy:
            return number
    raise InvalidRequest(f"end is {policy!r}; choose one of {', '.join(_END.values())}")
