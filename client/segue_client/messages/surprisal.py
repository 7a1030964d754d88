"""How surprising a model found some characters."""

import math
from base64 import b64encode
from dataclasses import asdict, dataclass, fields, is_dataclass


@dataclass(frozen=True, kw_only=True)
class Surprisal:
    """The summed log-probability of some characters, and what follows from it."""

    sum_log_probability: float = 0.0
    """Over the scored characters, in nats."""
    scored_count: int = 0

    @property
    def mean_surprisal(self) -> float | None:
        """The mean negative log-probability per character in nats; None if none was scored."""
        # 0.0 - x, because -x would turn a sum of 0 into -0.0.
        return (0.0 - self.sum_log_probability) / self.scored_count if self.scored_count else None

    @property
    def perplexity(self) -> float | None:
        """Exp of the mean surprisal; None if no character was scored."""
        mean = self.mean_surprisal
        if mean is None:
            return None
        try:
            return math.exp(mean)
        except OverflowError:
            return math.inf

    @property
    def bits_per_character(self) -> float | None:
        """The mean surprisal in bits; None if no character was scored."""
        mean = self.mean_surprisal
        return None if mean is None else mean / math.log(2)

    def as_dict(self) -> dict[str, object]:
        """Return all fields by their names, and `perplexity` and `bits_per_character`, which `asdict` leaves out.

        What belongs to the score (its windows, policies, continuation) becomes dicts too, and a ticket its Base64, so
        that `json.dumps` takes them: `base64.b64decode` returns the ticket.
        """
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return values | {"perplexity": self.perplexity, "bits_per_character": self.bits_per_character}


def _plain(value: object) -> object:
    """Turn dataclasses into dicts and bytes into their Base64; leave long tuples of numbers as they are."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, tuple) and value and isinstance(value[0], Surprisal):
        return tuple(part.as_dict() for part in value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
