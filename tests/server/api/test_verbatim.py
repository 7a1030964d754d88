"""What a model wrote, read back verbatim, gets the scores with which it was written, whatever it wrote.

Normalization is for texts of people: it may change one that a model wrote. These models write little else.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from segue.v1 import common_pb2, generation_pb2, generation_pb2_grpc, scoring_pb2, scoring_pb2_grpc
from segue_client import Client
from segue_client.commands.main import segue
from segue_export.export import export_checkpoint
from segue_training.text.normalization import NORMALIZATIONS, Normalizer
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, save_checkpoint

CHANGED = "\ufeff\r\n  aeo\u0301\u0323\u0302ᄀ각ᆨ\u1161A"
"""Marks that compose and change places, syllables of several letters, spaces, line ends, a byte order mark."""

VOCABULARIES = {
    "characters": Vocabulary(("<unk>", *sorted(set(CHANGED)))),
    "bytes": Vocabulary.of_bytes(),
}
KINDS = [f"{normalization}-{alphabet}" for normalization, alphabet in product(NORMALIZATIONS, VOCABULARIES)]


@pytest.fixture(scope="module")
def address(make_checkpoint: Callable[..., Checkpoint], start_server, tmp_path_factory) -> Iterator[str]:
    """A server of a model of each normalization and alphabet."""
    folder: Path = tmp_path_factory.mktemp("verbatim")
    for seed, name in enumerate(KINDS):
        normalization, alphabet = name.rsplit("-", 1)
        checkpoint = make_checkpoint(1, 16, seed, vocabulary=VOCABULARIES[alphabet])
        save_checkpoint(folder / name, replace(checkpoint, normalization=normalization))
        export_checkpoint(folder / name, folder / "models", name)
    with start_server(models=folder / "models") as running:
        yield running.address


@pytest.fixture
def stubs(address: str) -> Iterator["Stubs"]:
    with grpc.insecure_channel(address) as channel:
        yield Stubs(channel)


class Stubs:
    def __init__(self, channel: grpc.Channel) -> None:
        self.generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self.scoring = scoring_pb2_grpc.ScoringServiceStub(channel)

    def write(self, name: str, seed: int, count: int, **fields: object) -> tuple[str, list[float], bytes]:
        """Return a text, the log-probability of each character, and a ticket to the state after it."""
        request = generation_pb2.GenerateRequest(
            model=common_pb2.ModelReference(name=name),
            sampling=generation_pb2.Sampling(seed=seed),
            max_characters=count,
            log_probabilities=True,
            return_ticket=True,
            **fields,
        )
        _, *chunks, last = self.generation.Generate(request, timeout=60)
        scores = [score for chunk in chunks for score in chunk.text.log_probabilities]
        return "".join(chunk.text.text for chunk in chunks), scores, last.finished.ticket

    def score(self, name: str, texts: list[str], *, verbatim: bool, **start: bytes) -> list[scoring_pb2.TextScore]:
        request = scoring_pb2.ScoreRequest(
            model=common_pb2.ModelReference(name=name),
            start=common_pb2.Start(**start),
            texts=texts,
            policies=scoring_pb2.ScoringPolicies(verbatim=verbatim, begin=scoring_pb2.BEGIN_POLICY_BEGIN),
            log_probabilities=True,
        )
        return list(self.scoring.Score(request, timeout=60).scores)

    def stream(self, name: str, pieces: list[str]) -> tuple[list[float], scoring_pb2.ScoringPolicies]:
        policies = scoring_pb2.ScoringPolicies(verbatim=True, begin=scoring_pb2.BEGIN_POLICY_BEGIN)
        start = scoring_pb2.ScoreStreamStart(
            model=common_pb2.ModelReference(name=name), policies=policies, log_probabilities=True
        )
        requests = [scoring_pb2.ScoreStreamRequest(start=start)]
        requests += [scoring_pb2.ScoreStreamRequest(text=piece) for piece in pieces]
        first, *replies = self.scoring.ScoreStream(iter(requests), timeout=60)
        totals = [(reply.progress if reply.HasField("progress") else reply.finished).total for reply in replies]
        scores = [score for total in totals for score in total.log_probabilities]
        return scores, first.started.policies


@pytest.mark.parametrize("name", KINDS)
def test_a_text_read_verbatim_gets_the_scores_with_which_it_was_written(stubs: Stubs, name: str) -> None:
    """From the model's beginning, and after a prompt that is read verbatim too: that of the text before."""
    changed = 0
    for seed in range(12):
        text, scores, ticket = stubs.write(name, seed, 40)
        changed += NORMALIZATIONS[name.rsplit("-", 1)[0]](text) != text
        (found,) = stubs.score(name, [text], verbatim=True)
        assert list(found.log_probabilities) == scores
        assert found.sum_log_probability == sum(scores)
        cuts = sorted(np.random.default_rng(seed).integers(0, len(text) + 1, size=3).tolist())
        pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert stubs.stream(name, pieces)[0] == scores
        further, scores_further, _ = stubs.write(name, seed, 30, start=common_pb2.Start(ticket=ticket))
        (found,) = stubs.score(name, [further], verbatim=True, ticket=ticket)
        assert list(found.log_probabilities) == scores_further
        whole = stubs.score(name, [text + further], verbatim=True)[0]
        assert list(whole.log_probabilities) == scores + scores_further
    assert changed, "otherwise it shows nothing"


@pytest.mark.parametrize("name", KINDS)
def test_the_client_reads_verbatim_too(address: str, name: str) -> None:
    with Client(address) as client:
        written = client.generate(model=name, seed=3, max_characters=60, log_probabilities=True)
        text, scores = "", list[float]()
        for chunk in written:
            text, scores = text + chunk.text, [*scores, *chunk.log_probabilities]
        options = {"model": name, "begin": "begin", "verbatim": True, "log_probabilities": True}
        assert list(client.score(text, **options).log_probabilities) == scores
        (alone,) = client.score_each([text], **options)
        assert alone.policies.verbatim
        stream = client.score_stream([text[:7], text[7:]], **options)
        assert [score for progress in stream for score in progress.latest.log_probabilities] == scores
        assert stream.finished.sum_log_probability == sum(scores)


@pytest.mark.parametrize("name", KINDS)
def test_a_prompt_read_verbatim_is_the_state_that_wrote_it(stubs: Stubs, name: str) -> None:
    begin = "\n" if name.startswith("line") else ""
    for seed in range(6):
        text, _, ticket = stubs.write(name, seed, 25, prompt=begin, verbatim=True)
        continued = stubs.write(name, 7, 20, start=common_pb2.Start(ticket=ticket))
        # The text followed the begin symbol, which a prompt of it stands for.
        again = stubs.write(name, 7, 20, prompt="\n" + text, verbatim=True)
        assert again[:2] == continued[:2]


def test_the_reply_says_how_a_text_was_read(stubs: Stubs) -> None:
    assert stubs.stream("nfc-characters", ["a"])[1].verbatim
    start = scoring_pb2.ScoreStreamStart(model=common_pb2.ModelReference(name="nfc-characters"))
    replies = stubs.scoring.ScoreStream(iter([scoring_pb2.ScoreStreamRequest(start=start)]), timeout=60)
    assert not next(replies).started.policies.verbatim


def test_without_it_a_text_is_normalized(stubs: Stubs) -> None:
    (whole,), (composed,) = (stubs.score("nfc-characters", ["e\u0301"], verbatim=v) for v in (True, False))
    assert len(whole.log_probabilities) == 2
    assert len(composed.log_probabilities) == 1
    assert composed.unknown_count == 1
    (two,), (one,) = (stubs.score("letters-characters", ["a  A"], verbatim=v) for v in (True, False))
    assert len(two.log_probabilities) == 4
    assert len(one.log_probabilities) == 3


def test_the_commands_read_verbatim_too(address: str) -> None:
    def scored(*options: str) -> int:
        command = ["score", "--json", "--text", "e\u0301", "--server", address, "--model", "nfc-characters", *options]
        return int(json.loads(CliRunner().invoke(segue, command, catch_exceptions=False).stdout)["scored_count"])

    assert (scored(), scored("--verbatim")) == (0, 1)
    command = ["generate", "e\u0301", "--json", "--server", address, "--model", "nfc-characters"]
    texts = [CliRunner().invoke(segue, [*command, *options]).stdout for options in ([], ["--verbatim"])]
    assert [json.loads(text)["unknown_count"] for text in texts] == [1, 0]


@given(st.lists(st.text(st.sampled_from(CHANGED) | st.characters(exclude_categories=["Cs"])), max_size=5))
@settings(max_examples=200)
def test_nothing_is_changed_or_held_back(pieces: list[str]) -> None:
    normalizer = Normalizer.verbatim()
    for piece in pieces:
        assert normalizer.feed(piece) == piece
    assert normalizer.held_count == 0
    assert not normalizer.end()
