"""From scoring requests to sequences."""

from dataclasses import dataclass
from typing import Final

from segue.v1 import scoring_pb2 as pb

from segue_server.api.encoding import PART, check_line_feeds, encode, normalize_after, start_text
from segue_server.api.score_accumulator import Wanted
from segue_server.api.scoring_policies import Policies
from segue_server.api.windows import read_windows
from segue_server.engine.model import Model
from segue_server.engine.sampling import Ids
from segue_server.engine.sequence import NO_IDS, Sequence, State
from segue_server.errors import InvalidRequest
from segue_server.limits import LIMITS
from segue_server.runtime.time_slices import Steps
from segue_server.state.start import StartState
from segue_server.validation import check_at_most, check_choice

SCORING_SEED: Final = 0
"""The seed in a ticket of a newly begun text: equal requests give equal states."""

FEW_TEXTS: Final = 16
"""Texts that are read, or answered, at once."""


@dataclass(frozen=True)
class TextStart:
    """The state that texts continue from."""

    state: State | None
    """None: the text begins."""
    seed: int
    """For a text that begins."""
    offset: int = 0
    """How many characters of the text came before."""

    @classmethod
    def of(cls, start: StartState) -> "TextStart":
        """Return the state that a call's texts continue from."""
        return cls(start.state, SCORING_SEED if start.seed is None else start.seed)


@dataclass(frozen=True)
class TextToScore:
    """A checked text, or a piece of one."""

    text: str
    """Normalized."""
    state: State | None
    """Before the symbols of `prefill_ids`. None: nothing was read."""
    prefill_ids: Ids
    session_ids: Ids
    """All ids from the start to the end of the text."""
    unknown_at: Ids
    """Positions in the text that are read as `<unk>`."""

    def sequence(self, wanted: Wanted, marks: tuple[int, ...] = ()) -> Sequence:
        """Return the sequence that scores it; `prefill_ids` must not be empty."""
        assert self.state is not None
        return Sequence(
            self.state,
            self.prefill_ids,
            score_prefill=True,
            rank_prefill=wanted.ranks,
            alternatives_prefill=wanted.alternatives,
            marks=marks,
        )


def read_wanted(request: pb.ScoreRequest | pb.ScoreStreamStart, model: Model, *, text: bool) -> Wanted:
    """Check what `request` asks for besides sums; `text`: whether it asks for the text too. Raises InvalidRequest."""
    check_at_most("top_alternatives", request.top_alternatives, LIMITS.max_alternatives)
    if model.vocabulary.alphabet == "bytes" and (request.ranks or request.top_alternatives):
        raise InvalidRequest("ranks and top_alternatives are of symbols, and this model's are bytes: leave them out")
    return Wanted(
        log_probabilities=request.log_probabilities,
        ranks=request.ranks,
        alternatives=request.top_alternatives,
        windows=read_windows(request.windows),
        text=text,
        window_before=request.windows.before,
    )


def max_characters(wanted: Wanted) -> int:
    """Return how many characters one request, or one piece of a stream, may have."""
    if wanted.alternatives:
        return LIMITS.max_scored_with_alternatives
    return LIMITS.max_scored_in_detail if wanted.log_probabilities or wanted.ranks else LIMITS.max_scored


def read_texts(
    request: pb.ScoreRequest, model: Model, start: TextStart, policies: Policies, wanted: Wanted
) -> Steps[list[TextToScore]]:
    """Check `request` against the limits and encode its texts; raises InvalidRequest."""
    if not request.texts:
        raise InvalidRequest("texts is empty: send at least one text to score")
    max_texts = LIMITS.max_texts_with_tickets if request.return_tickets else LIMITS.max_texts
    check_at_most("number of texts", len(request.texts), max_texts)
    texts = list(request.texts)
    check_at_most("characters of all texts together", sum(map(len, texts)), max_characters(wanted))
    read = yield from read_all("texts", texts, start, policies, model)
    if wanted.windows is not None:
        count = sum(_window_count(text.text, wanted.windows) + (wanted.window_before > 0) for text in read)
        check_at_most("windows of all texts together", count, LIMITS.max_windows)
    return read


def read_candidates(
    request: pb.ScoreCandidatesRequest, model: Model, start: TextStart, policies: Policies
) -> Steps[list[TextToScore]]:
    """Encode the candidates of a request that `read_context` has checked; raises InvalidRequest."""
    return (yield from read_all("candidates", list(request.candidates), start, policies, model))


def read_all(
    field: str, texts: list[str], start: TextStart, policies: Policies, model: Model
) -> Steps[list[TextToScore]]:
    """Normalize, end and encode whole texts, which are emptied out of the list; raises InvalidRequest."""
    read = list[TextToScore]()
    texts.reverse()
    while texts:
        if len(read) >= FEW_TEXTS:
            yield
        read.append((yield from read_text(f"{field}[{len(read)}]", texts.pop(), start, policies, model)))
    return read


def read_text(field: str, text: str, start: TextStart, policies: Policies, model: Model) -> Steps[TextToScore]:
    """Normalize, end and encode a whole text; raises InvalidRequest."""
    text = yield from normalize_after(field, start.state, text, model, verbatim=policies.verbatim)
    return (yield from read_piece(field, policies.with_line_feed(text), start, policies, model))


def read_piece(field: str, text: str, start: TextStart, policies: Policies, model: Model) -> Steps[TextToScore]:
    """Encode a normalized text, or a piece of one; raises InvalidRequest."""
    check_line_feeds(field, text.removesuffix("\n"), model, offset=start.offset)
    ids, unknown_at = yield from encode(field, text, model, policies.unknown, offset=start.offset)
    if start.state is not None:
        return TextToScore(text, start.state, ids, ids, unknown_at)
    if not (len(ids) or policies.with_begin):
        return TextToScore(text, None, NO_IDS, NO_IDS, NO_IDS)
    state, ids = start_text(ids, start.seed, model, with_begin=policies.with_begin)
    return TextToScore(text, state, ids[1:], ids, unknown_at)


def _window_count(text: str, size: int) -> int:
    return -(-len(text) // size) if size else text.count("\n") + 1


def read_context(
    request: pb.ScoreCandidatesRequest, model: Model, start: TextStart, policies: Policies
) -> Steps[TextToScore]:
    """Check `request` against the limits and encode its context; raises InvalidRequest."""
    if not request.candidates:
        raise InvalidRequest("candidates is empty: send at least one text that may follow the context")
    max_candidates = LIMITS.max_candidates_with_tickets if request.return_tickets else LIMITS.max_candidates
    check_at_most("number of candidates", len(request.candidates), max_candidates)
    context = request.context
    check_at_most("characters of context", len(context), LIMITS.max_prompt)
    if len(context) > PART:
        yield
    limit = LIMITS.max_scored_in_detail if request.log_probabilities else LIMITS.max_scored
    check_at_most("characters of all candidates together", sum(map(len, request.candidates)), limit)
    check_choice("ranking", request.ranking, pb.CandidateRanking)
    text = yield from normalize_after("context", start.state, context, model, verbatim=policies.verbatim)
    check_line_feeds("context", text, model)
    return (yield from read_piece("context", text, start, policies, model))
