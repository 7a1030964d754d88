"""A model with the interface of KenLM's Python module.

    from segue_client import Client
    from segue_client.language_model import LanguageModel

    with Client("127.0.0.1:50051") as client:
        model = LanguageModel(client)
        model.score("the cats were full")           # log10, as in KenLM
        model.perplexity("the cats were full")

Differences:

- A symbol is a character, not a word; texts are not tokenized. `full_scores` yields one score per character, and
  perplexities are per character.
- `bos` puts the model's `begin` character, a line feed for nearly all models, before the text. `eos` scores a line feed
  after it, which is the closest such a model has to an end of sentence. A text that ends with a line feed gets no
  second one.
- Without `bos` the first character is read but not scored; KenLM gives a word its unigram probability. A model of
  documents always begins with `begin`: there `bos=False` is refused.
- The context is unlimited: `ngram_length` is the number of all characters up to this one.
- A state is a value that can be kept, copied, stored (its ticket is bytes) and continued any number of times, but not
  compared: tickets of one state differ. `score_next` returns the state after the characters; KenLM's `BaseScore` fills
  one in.
- Everything is in log10, as in KenLM. `Client.score` gives nats, and exact sums.
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
"""Nats per factor of ten."""


class FullScore(NamedTuple):
    """One scored character."""

    log_probability: float
    """log10."""
    ngram_length: int
    """Characters up to and including this one, with `begin` if it precedes the text."""
    oov: bool
    """Whether it is unknown to the model, and was read as `<unk>`."""


@dataclass(frozen=True)
class State:
    """The state after some text."""

    ticket: bytes | None = None
    """None: nothing was read but what `begin` says."""
    begin: BeginPolicy = "begin"


class LanguageModel:
    """One model of a server. Thread-safe."""

    def __init__(self, client: Client, model: str = "", version: int = 0) -> None:
        """`model`, `version`: "" is the server's only model, 0 its newest version."""
        self._client = client
        self._model = model
        self._version = version

    def score(self, text: str, bos: bool = True, eos: bool = True) -> float:
        """Return the log10 probability of `text`."""
        return self._score(text, bos=bos, eos=eos).sum_log_probability / _NATS

    def full_scores(self, text: str, bos: bool = True, eos: bool = True) -> Iterator[FullScore]:
        """Yield the score of each character, including the final line feed."""
        score = self._score(text, bos=bos, eos=eos, in_full=True)
        characters = score.text[len(score.text) - score.scored_count :]
        for length, (character, log_probability) in enumerate(
            zip(characters, score.log_probabilities, strict=True), start=2
        ):
            yield FullScore(log_probability / _NATS, length, character not in self)

    def perplexity(self, text: str) -> float:
        """Return the perplexity per character of `text`, including the final line feed."""
        perplexity = self._score(text, bos=True, eos=True).perplexity
        assert perplexity is not None  # at least the line feed was scored
        return perplexity

    def begin_state(self) -> State:
        """Return the state at the beginning of a text, after `begin`."""
        return State(begin="begin")

    def null_state(self) -> State:
        """Return the zero state."""
        return State(begin="nothing")

    def score_next(self, state: State, characters: str) -> tuple[float, State]:
        """Return the log10 probability of `characters` after `state`, and the state after them.

        A line feed is a character like any other here.
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
        """The characters known to the model; None: all."""
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
