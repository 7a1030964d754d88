"""What scores take until their reply has been read: known from the request, and taken before the work is done."""

from collections.abc import Collection
from typing import Final

from segue_server.api.score_accumulator import Wanted
from segue_server.api.scoring_request import TextToScore
from segue_server.engine.model import Model
from segue_server.limits import LIMITS
from segue_server.state.tickets import ticket_bytes

# Bytes, about: what Python and protobuf keep for each, and what it takes in the message.
_TEXT: Final = 1024
_CHARACTER: Final = 8
_NUMBER: Final = 48
_ALTERNATIVE: Final = 48
_WINDOW: Final = 320


def reply_bytes(texts: Collection[TextToScore], wanted: Wanted, model: Model, *, tickets: bool) -> int:
    """Return about how many bytes the scores of `texts` take at most; `tickets`: each one comes with a ticket."""
    characters = sum(len(text.session_ids) for text in texts)
    of_text = _TEXT + 2 * ticket_bytes(model) * tickets  # a state is about as large as its ticket
    numbers = wanted.log_probabilities + wanted.ranks
    of_character = _CHARACTER * (1 + wanted.text) + _NUMBER * numbers + _ALTERNATIVE * wanted.alternatives
    windows = 0 if wanted.windows is None else min(characters + len(texts), LIMITS.max_windows)
    return len(texts) * of_text + characters * of_character + windows * _WINDOW
