"""From a ScoreRequest to sequences."""

from dataclasses import dataclass
from typing import Final

from charlm.v1 import scoring_pb2, start_pb2

from charlm_server.errors import InvalidRequest
from charlm_server.limits import LIMITS
from charlm_server.model import Model
from charlm_server.sampling import Ids
from charlm_server.sequence import Sequence, State
from charlm_server.texts import begin, check_at_most, check_line_feeds, encode
from charlm_server.tickets import read_ticket

SCORING_SEED: Final = 0
"""A ticket from scoring holds this seed: the same request gives the same ticket."""


@dataclass(frozen=True)
class TextToScore:
    """One checked text of a ScoreRequest."""

    state: State | None
    """Before the symbols of `forced`. None: nothing was read."""
    forced: Ids
    """The ids to read on from there."""
    unknown_count: int

    def sequence(self) -> Sequence:
        """Return the sequence that scores it; `forced` must not be empty."""
        assert self.state is not None
        return Sequence(self.state, self.forced, score_forced=True)


def read_texts(request: scoring_pb2.ScoreRequest, model: Model) -> list[TextToScore]:
    """Check `request` against the limits and encode its texts; raises InvalidRequest, InvalidTicket."""
    if not request.texts:
        raise InvalidRequest("texts is empty: send at least one text to score")
    most = LIMITS.max_texts_with_tickets if request.return_tickets else LIMITS.max_texts
    check_at_most("number of texts", len(request.texts), most)
    limit = LIMITS.max_scored_in_detail if request.log_probabilities else LIMITS.max_scored
    check_at_most("characters of all texts together", sum(map(len, request.texts)), limit)
    start = read_ticket(request.start.ticket, model) if request.start.HasField("ticket") else None
    return [
        _read_text(f"texts[{i}]", text, start, request.policies.unknown, model) for i, text in enumerate(request.texts)
    ]


def _read_text(
    field: str, text: str, start: State | None, policy: start_pb2.UnknownPolicy.ValueType, model: Model
) -> TextToScore:
    text = model.manifest.normalize(text)
    check_line_feeds(field, text.removesuffix("\n"), model)
    ids, unknown_count = encode(field, text, model, policy)
    if start is None and (len(ids) or model.symbols.end is not None):
        start, ids = begin(ids, SCORING_SEED, model)
    return TextToScore(start, ids, unknown_count)
