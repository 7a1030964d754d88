"""A model under the names that users of KenLM's Python module know.

    from segue_client import Client
    from segue_client.language_model import LanguageModel

    with Client("127.0.0.1:50051") as client:
        model = LanguageModel(client)
        model.score("the cats were full")           # log10, as KenLM gives it
        model.perplexity("the cats were full")

What is different:

- A symbol is a character, not a word; texts are not split into tokens. `full_scores` brings one for each character, and
  perplexities are those of a character.
- `bos`: the model's `begin` character, a line feed for nearly all models, stands before the text. `eos`: a line feed
  stands behind it and is scored; that is the end of a sentence as far as such a model knows one. A text that ends with
  its own line feed gets no other.
- Without `bos` the first character has nothing before it; it is read and not scored, where KenLM gives a word its
  unigram probability. A model of documents always begins with `begin`: there `bos=False` is refused.
- A context has no order at which it ends: `ngram_length` is the number of all characters up to this one.
- A state is a value, which can be held, copied, stored (its ticket is bytes) and continued any number of times, but not
  compared: tickets of one state differ. `score_next` returns the state behind the characters, where KenLM's
  `BaseScore` fills one in.
- Everything is in log10 here, as in KenLM. `Client.score` gives nats, and exact sums.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from segue_client._sync.client import Client
from segue_client.messages.policies import BeginPolicy, EndPolicy
from segue_client.messages.score import Score

_NATS: Final = math.log(10)
"""How many nats there are to a factor of ten."""


class FullScore(NamedTuple):
    """One scored character."""

    log_probability: float
    """log10."""
    ngram_length: int
    """How many characters it rests on, with itself and with `begin` where that stands before the text."""
    oov: bool
    """Whether the model does not know it: it was read as `<unk>`."""


@dataclass(frozen=True)
class State:
    """What was read so far."""

    ticket: bytes | None = None
    """None: nothing but what `begin` says."""
    begin: BeginPolicy = "begin"


class LanguageModel:
    """One model of a server. Any number of threads may use it."""

    def __init__(self, client: Client, model: str = "", version: int = 0) -> None:
        """`model`, `version`: "" is the server's only model, 0 its newest version."""
        self._client = client
        self._model = model
        self._version = version

    def score(self, text: str, bos: bool = True, eos: bool = True) -> float:
        """Return the log10 probability of `text`."""
        return self._score(text, bos=bos, eos=eos).sum_log_probability / _NATS

    def full_scores(self, text: str, bos: bool = True, eos: bool = True) -> Iterator[FullScore]:
        """Yield the score of each character, of the line feed at the end last."""
        score = self._score(text, bos=bos, eos=eos, in_full=True)
        characters = score.text[len(score.text) - score.scored_count :]
        for length, (character, log_probability) in enumerate(
            zip(characters, score.log_probabilities, strict=True), start=2
        ):
            yield FullScore(log_probability / _NATS, length, character not in self)

    def perplexity(self, text: str) -> float:
        """Return the perplexity of a character of `text`, the line feed at its end included."""
        perplexity = self._score(text, bos=True, eos=True).perplexity
        assert perplexity is not None  # the line feed at least was scored
        return perplexity

    def begin_state(self) -> State:
        """Return the state at the beginning of a text: behind `begin`."""
        return State(begin="begin")

    def null_state(self) -> State:
        """Return the state in which nothing was read."""
        return State(begin="nothing")

    def score_next(self, state: State, characters: str) -> tuple[float, State]:
        """Return the log10 probability of `characters` behind `state`, and the state behind them.

        The line feed that `eos` adds elsewhere is a character like any other here.
        """
        score = self._client.score(
            characters,
            model=self._model,
            version=self._version,
            ticket=state.ticket,
            begin=state.begin,
            return_ticket=True,
        )
        following = State(score.ticket, state.begin) if characters and score.ticket else state
        return score.sum_log_probability / _NATS, following

    def __contains__(self, character: str) -> bool:
        return self._vocabulary is None or character in self._vocabulary

    def __repr__(self) -> str:
        return f"<LanguageModel {self._model or 'of the server'}{f'/{self._version}' if self._version else ''}>"

    @cached_property
    def _vocabulary(self) -> frozenset[str] | None:
        """The characters that the model knows; None: all."""
        model = self._client.model(self._model, self._version)
        return None if model.alphabet == "bytes" else frozenset(model.vocabulary[1:])

    def _score(self, text: str, *, bos: bool, eos: bool, in_full: bool = False) -> Score:
        begin: BeginPolicy = "begin" if bos else "nothing"
        end: EndPolicy = "line-feed" if eos else "nothing"
        return self._client.score(
            text,
            model=self._model,
            version=self._version,
            begin=begin,
            end=end,
            log_probabilities=in_full,
            return_text=in_full,
        )
