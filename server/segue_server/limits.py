"""Every limit of a request, in one table. Requests are checked before anything is allocated."""

from dataclasses import dataclass
from typing import Final

MAX_MESSAGE_BYTES: Final = 9 * 2**19
"""Of one request: 1,000,000 characters, which are at most 4 MB of UTF-8, and what is said about them. gRPC hands out a
message in one go, and holds the event loop for more than a millisecond for each MiB."""

RETRY_AFTER_SECONDS: Final = 1.0
"""The retry hint sent with RESOURCE_EXHAUSTED."""


@dataclass(frozen=True)
class MethodLimits:
    """What the requests of a method may be, and what they cost."""

    message_bytes: int = MAX_MESSAGE_BYTES
    """Of one request, or one message of a stream."""
    memory_factor: int = 6
    """Bytes that the server holds for each byte of a message: the bytes, the text, its normal form, its ids."""
    uses_engine: bool = True
    """Whether its calls wait for the engine."""


TEXT_METHOD: Final = MethodLimits()
"""Generate and ScoreStream."""
TEXTS_METHOD: Final = MethodLimits(memory_factor=14)
"""Score and ScoreCandidates, which keep the texts for the reply, and a log-probability for each character."""
SHORT_METHOD: Final = MethodLimits(64 * 1024, uses_engine=False)
"""The methods of sessions and models: names, tickets and numbers."""


@dataclass(frozen=True)
class RequestLimits:
    """The ranges of a request's fields. Sizes of texts are in characters."""

    max_prompt: int = 1_000_000
    default_generated: int = 256
    max_generated: int = 1_000_000
    max_temperature: float = 100.0
    max_biases: int = 256
    max_bias: float = 100.0
    """Absolute value."""
    max_listed: int = 10_000
    """Of allowed_characters and of forbidden_characters."""
    max_stops: int = 16
    max_stop: int = 128
    max_samples: int = 64
    max_request_key: int = 64
    max_forks: int = 64
    max_rewind: int = 4_096
    max_page: int = 1_000
    max_page_token: int = 64
    """A session's name."""
    default_page: int = 100
    max_alternatives: int = 20
    max_texts: int = 4_096
    max_texts_with_tickets: int = 256
    """A ticket holds a state: 8 KB for two layers of 512."""
    max_candidates: int = 4_096
    max_candidates_with_tickets: int = 256
    max_scored: int = 1_000_000
    """Of all texts of a request together."""
    max_scored_in_detail: int = 250_000
    """The same with the log-probability or the rank of each character: 8 bytes each, and gRPC clients receive at most
    4 MiB by default."""
    max_scored_with_alternatives: int = 20_000
    """The same with alternatives to each character."""
    max_windows: int = 65_536
    """Of all texts of a request together. Also the most characters in a piece of a stream with windows."""
    max_held_back: int = 4_096
    """Characters of a text that the next one may still change, such as a long run of combining marks."""


LIMITS: Final = RequestLimits()
