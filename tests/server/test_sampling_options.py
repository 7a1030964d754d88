"""Which characters may be written, what else was likely, and several texts at once; through real gRPC."""

import asyncio
import itertools
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from google.rpc import error_details_pb2, status_pb2
from segue.v1 import common_pb2, generation_pb2_grpc, scoring_pb2, scoring_pb2_grpc
from segue.v1 import generation_pb2 as pb
from segue_export.artifact import read_artifact
from segue_export.export import export_checkpoint
from segue_server.api.calls.call import Call, Patience
from segue_server.api.generation_request import Generation, check_limits, read_generation
from segue_server.api.services.generation import GenerationService
from segue_server.engine.build import Build
from segue_server.engine.model import Model
from segue_server.engine.sequence import Finish, Sequence
from segue_server.errors import EngineFailed, InvalidRequest, Overloaded, Stalled
from segue_server.limits import TEXT_METHOD
from segue_server.prefix_cache.cache import PrefixCache
from segue_server.runtime.admission import Admission, Capacity
from segue_server.runtime.owner import NOBODY
from segue_server.runtime.time_slices import at_once
from segue_server.state.start import StartResolver, StartState
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, save_checkpoint
from unsealing import unsealed

QUANTUM = 2.0**-24
FOREVER = 1_000_000
BELOW_ONE = math.nextafter(1, 0)
ABOVE_100 = math.nextafter(100, 101)


def checked(asked: pb.GenerateRequest, model: Model) -> Generation:
    at_once(check_limits(asked))
    return read(asked, model)


def read(asked: pb.GenerateRequest, model: Model) -> Generation:
    return at_once(read_generation(asked, model, StartState.nothing(Build.of(model, bytes(16)))))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"unknown_policy": 7}, "unknown_policy is 7"),
        ({"sampling": pb.Sampling(biases=[pb.CharacterBias(character="x" * 100_000)])}, "biases: 'xxx"),
    ],
)
def test_a_refusal_is_short_and_names_the_field(asked: dict[str, Any], words: str, model: Model) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        checked(pb.GenerateRequest(**asked), model)
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_a_prompt_behind_a_ticket_keeps_its_first_character_as_a_scored_text_does(channel: grpc.Channel) -> None:
    scoring = scoring_pb2_grpc.ScoringServiceStub(channel)
    [first] = scoring.Score(scoring_pb2.ScoreRequest(texts=["The cat"], return_tickets=True)).scores
    start = common_pb2.Start(ticket=first.ticket)
    [scored] = scoring.Score(scoring_pb2.ScoreRequest(texts=["\ufeffs"], start=start)).scores
    asked = pb.GenerateRequest(prompt="\ufeffs", start=start, max_characters=1)
    *_, last = generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked)
    assert last.finished.position == scored.position + 1


@dataclass
class Text:
    """One sample as it came."""

    characters: str = ""
    log_probabilities: list[float] = field(default_factory=list)
    alternatives: list[tuple[str, tuple[float, ...]]] = field(default_factory=list)
    finished: pb.GenerationFinished | None = None
    """With what is in its ticket."""
    ticket: bytes = field(default=b"", compare=False)

    def take(self, response: pb.GenerateResponse) -> None:
        assert self.finished is None, "something came after `finished`"
        if response.HasField("finished"):
            self.ticket = response.finished.ticket
            self.finished = response.finished
            self.finished.ticket = unsealed(self.ticket)
        else:
            self.characters += response.text.text
            self.log_probabilities += response.text.log_probabilities
            self.alternatives += [(a.characters, tuple(a.log_probabilities)) for a in response.text.alternatives]


def gather(responses: Iterator[pb.GenerateResponse]) -> tuple[int, list[Text]]:
    """Return the seed in use and the texts, by sample."""
    first = next(responses)
    assert first.HasField("started")
    assert first.sample == 0
    texts: dict[int, Text] = defaultdict(Text)
    for response in responses:
        texts[response.sample].take(response)
    assert all(text.finished for text in texts.values())
    return first.started.seed, [texts[sample] for sample in sorted(texts)]


def generate(channel: grpc.Channel, **fields: Any) -> list[Text]:
    asked = asked_for(**fields)
    return gather(generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked, timeout=60))[1]


def text_of(channel: grpc.Channel, **fields: Any) -> Text:
    (text,) = generate(channel, **fields)
    return text


def asked_for(
    prompt: str = "The", count: int = 60, model: str = "", ticket: bytes = b"", **fields: Any
) -> pb.GenerateRequest:
    """A request; what is no field of it is one of its sampling."""
    names = pb.GenerateRequest.DESCRIPTOR.fields_by_name
    of_sampling = {"seed": 7} | {name: value for name, value in fields.items() if name not in names}
    return pb.GenerateRequest(
        model=common_pb2.ModelReference(name=model),
        start=common_pb2.Start(ticket=ticket) if ticket else None,
        prompt=prompt,
        max_characters=count,
        log_probabilities=True,
        return_ticket=True,
        sampling=pb.Sampling(**of_sampling),
        **{name: value for name, value in fields.items() if name in names},
    )


def biases(by_character: dict[str, float]) -> list[pb.CharacterBias]:
    return [pb.CharacterBias(character=character, bias=bias) for character, bias in by_character.items()]


def scored(channel: grpc.Channel, text: str, ticket: bytes = b"") -> scoring_pb2.TextScore:
    start = common_pb2.Start(ticket=ticket) if ticket else None
    asked = scoring_pb2.ScoreRequest(texts=[text], start=start, log_probabilities=True, return_tickets=True)
    return scoring_pb2_grpc.ScoringServiceStub(channel).Score(asked, timeout=60).scores[0]


@pytest.fixture(scope="session")
def few_address(make_checkpoint: Callable[..., Checkpoint], start_server: Any, tmp_path_factory: Any) -> Iterator[str]:
    """A server of a model that knows three characters."""
    folder: Path = tmp_path_factory.mktemp("few")
    few = make_checkpoint(layers=1, hidden=8, seed=6, vocabulary=Vocabulary(("<unk>", "a", "b", "\n")))
    save_checkpoint(folder / "few", few)
    export_checkpoint(folder / "few", folder / "models", "few")
    with start_server(models=folder / "models") as running:
        yield running.address


@pytest.fixture
def few_channel(few_address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(few_address) as channel:
        yield channel


CHINESE = [chr(0x4E00 + i) for i in range(400)]


@pytest.fixture(scope="session")
def wide_model(make_checkpoint: Callable[..., Checkpoint], tmp_path_factory: Any) -> Model:
    """A model that knows enough characters for every limit, some of which normalization composes."""
    folder: Path = tmp_path_factory.mktemp("wide")
    vocabulary = Vocabulary(("<unk>", "\n", "a", "é", *CHINESE))
    wide = replace(make_checkpoint(layers=1, hidden=8, seed=8, vocabulary=vocabulary), normalization="nfc")
    save_checkpoint(folder / "wide", wide)
    export_checkpoint(folder / "wide", folder / "models", "wide")
    return Model(read_artifact(folder / "models" / "wide" / "1"))


# What may be written.


@pytest.mark.parametrize("settings", [{}, {"temperature": 3.0}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.8}])
def test_only_allowed_characters_are_written(channel: grpc.Channel, settings: dict[str, Any]) -> None:
    text = text_of(channel, count=200, allowed_characters="qxz,aaa", **settings)
    assert set(text.characters) <= set("qxza,")
    assert len(text.characters) == 200


@pytest.mark.parametrize("settings", [{"temperature": 3.0}, {"temperature": 0.0}, {"top_k": 5}])
def test_forbidden_characters_are_never_written(channel: grpc.Channel, settings: dict[str, Any]) -> None:
    free = text_of(channel, count=300, **settings)
    forbidden = "".join(sorted(set(free.characters)))[::2]
    bound = text_of(channel, count=300, forbidden_characters=forbidden, **settings)
    assert not set(bound.characters) & set(forbidden)
    assert len(bound.characters) == 300


def test_what_is_forbidden_counts_more_than_what_is_allowed_or_favoured(channel: grpc.Channel) -> None:
    text = text_of(channel, allowed_characters="abc", forbidden_characters="b", biases=biases({"b": 100}))
    assert set(text.characters) <= set("ac")


def test_allowing_some_is_forbidding_the_others(channel: grpc.Channel, checkpoint: Checkpoint) -> None:
    known = set(checkpoint.vocabulary.characters[1:])
    for seed in range(5):
        allowed = text_of(channel, seed=seed, allowed_characters="etaoin ")
        forbidden = text_of(channel, seed=seed, forbidden_characters="".join(sorted(known - set("etaoin "))))
        assert allowed == forbidden


def test_one_character_alone_may_be_allowed(channel: grpc.Channel) -> None:
    assert text_of(channel, allowed_characters="ab", forbidden_characters="b").characters == "a" * 60


def test_top_k_counts_only_what_may_be_written(channel: grpc.Channel) -> None:
    """Otherwise it would keep characters that are forbidden, and leave nothing."""
    for seed in range(5):
        likeliest = text_of(channel, seed=seed, allowed_characters="jqx", temperature=0)
        assert text_of(channel, seed=seed, allowed_characters="jqx", top_k=1) == likeliest


@pytest.mark.parametrize(
    "settings", [{"biases": biases({"e": 3, "q": -2})}, {"forbidden_characters": "e\n"}, {"min_p": 0.3}]
)
def test_log_probabilities_are_the_model_s_own_whatever_the_settings(
    channel: grpc.Channel, settings: dict[str, Any]
) -> None:
    text = text_of(channel, **settings)
    assert list(scored(channel, "The" + text.characters).log_probabilities)[2:] == text.log_probabilities


@pytest.mark.parametrize("model", ["lines", "byte-lines"])
def test_a_document_without_its_line_feed_ends_by_length(kinds_channel: grpc.Channel, model: str) -> None:
    ending = [text_of(kinds_channel, model=model, count=300, seed=seed) for seed in range(5)]
    assert any(text.finished.reason == pb.FINISH_REASON_END for text in ending)
    for settings in ({"forbidden_characters": "\n"}, {"allowed_characters": "The cat"}):
        for seed in range(5):
            text = text_of(kinds_channel, model=model, count=300, seed=seed, **settings)
            assert text.finished.reason == pb.FINISH_REASON_LENGTH
            assert len(text.characters) == 300


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"top_k": 2}])
def test_a_model_of_bytes_writes_the_allowed_bytes_alone(kinds_channel: grpc.Channel, settings: dict[str, Any]) -> None:
    text = text_of(kinds_channel, model="bytes", allowed_characters="ab\x00\x7f", **settings)
    assert set(text.characters) <= set("ab\x00\x7f")
    assert len(text.characters) == 60


def test_a_model_of_bytes_that_may_write_no_ascii_writes_longer_characters(kinds_channel: grpc.Channel) -> None:
    ascii_characters = "".join(map(chr, range(128)))
    text = text_of(kinds_channel, model="bytes", forbidden_characters=ascii_characters)
    assert len(text.characters) == 60
    assert not any(map(str.isascii, text.characters.replace("\r", "")))  # it was normalized: no text has one
    assert "\ufffd" not in text.characters


# Biases.


def test_the_largest_biases_decide_alone(channel: grpc.Channel) -> None:
    """The logits of this model differ by far less than 100."""
    for settings in ({}, {"temperature": 0.0}, {"temperature": 2.0}):
        assert text_of(channel, biases=biases({"z": 100}), **settings).characters == "z" * 60
        free = text_of(channel, count=300, **settings).characters
        hated = max(set(free), key=free.count)
        assert hated not in text_of(channel, count=300, biases=biases({hated: -100}), **settings).characters


@pytest.mark.parametrize("bias", [-3.0, -0.5, 0.5, 2.0])
def test_a_bias_is_added_to_the_logit(channel: grpc.Channel, bias: float) -> None:
    """Greedy text shows it: each choice is the argmax of what the model thought, plus the bias."""
    by_character = {"e": bias, " ": -bias}
    text = text_of(channel, count=200, temperature=0, biases=biases(by_character), top_alternatives=20)
    for chosen, (characters, logs) in zip(text.characters, text.alternatives, strict=True):
        biased = {c: log + by_character.get(c, 0) for c, log in zip(characters, logs, strict=True)}
        unseen = logs[-1] + abs(bias)
        if max(biased.values()) > unseen:
            assert biased[chosen] == pytest.approx(max(biased.values()), abs=1e-5)


def test_a_bias_acts_before_temperature(channel: grpc.Channel) -> None:
    """At a temperature of 100 a bias of 100 is worth as much as one of 1 otherwise: the text stays mixed."""
    text = text_of(channel, count=300, temperature=100, biases=biases({"z": 100}))
    assert 1 < text.characters.count("z") < 60


# min_p.


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("min_p", [0.02, 0.3])
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(
    channel: grpc.Channel, temperature: float, min_p: float
) -> None:
    text = text_of(channel, count=300, temperature=temperature, min_p=min_p, top_alternatives=1)
    below = [
        (log - logs[0]) / temperature for log, (_, logs) in zip(text.log_probabilities, text.alternatives, strict=True)
    ]
    assert min(below) >= math.log(min_p) - 1e-5
    assert min(below) < math.log(min_p) / 4, "it kept the likeliest alone"


def test_the_extremes_of_min_p(channel: grpc.Channel) -> None:
    assert text_of(channel, min_p=0.0) == text_of(channel)
    assert text_of(channel, min_p=BELOW_ONE) == text_of(channel, temperature=0)


# Alternatives.


def test_alternatives_are_the_likeliest_characters(channel: grpc.Channel, checkpoint: Checkpoint) -> None:
    text = text_of(channel, count=200, top_alternatives=20)
    assert len(text.alternatives) == 200
    model, vocabulary = checkpoint.build_model(), checkpoint.vocabulary
    with torch.inference_mode():
        logits, *_ = model(torch.from_numpy(vocabulary.encode("The" + text.characters))[None], *model.zero_state())
    log_probabilities = logits[0].double().log_softmax(1)[2:-1]
    for chosen, log, (characters, logs), of_torch in zip(
        text.characters, text.log_probabilities, text.alternatives, log_probabilities, strict=True
    ):
        assert len(set(characters)) == len(logs) == 20
        assert list(logs) == sorted(logs, reverse=True)
        assert math.fsum(map(math.exp, logs)) <= 1 + 1e-6
        assert all(value % QUANTUM == 0 for value in logs)
        assert logs == pytest.approx(of_torch[1:].topk(20).values.tolist(), abs=1e-4)
        assert logs == pytest.approx(of_torch[vocabulary.encode(characters)].tolist(), abs=1e-4)
        if chosen in characters:
            assert logs[characters.index(chosen)] == log
        else:
            assert log <= logs[-1]


def test_the_greedy_choice_is_the_first_alternative(channel: grpc.Channel) -> None:
    text = text_of(channel, count=200, temperature=0, top_alternatives=3)
    assert text.characters == "".join(characters[0] for characters, _ in text.alternatives)
    assert text.log_probabilities == [logs[0] for _, logs in text.alternatives]


def test_fewer_alternatives_are_the_first_of_more(channel: grpc.Channel) -> None:
    most = text_of(channel, top_alternatives=20)
    for count in (1, 7, 19):
        fewer = text_of(channel, top_alternatives=count)
        assert fewer.alternatives == [(characters[:count], logs[:count]) for characters, logs in most.alternatives]
    assert text_of(channel).alternatives == []


def test_alternatives_show_what_may_not_be_written(channel: grpc.Channel) -> None:
    """They are the model's own thoughts, whatever the settings."""
    free = text_of(channel, count=1, top_alternatives=5)
    bound = text_of(
        channel,
        count=1,
        top_alternatives=5,
        forbidden_characters=free.alternatives[0][0][:4],
        biases=biases({"q": 100}),
        temperature=0,
    )
    assert bound.characters == "q"
    assert bound.alternatives == free.alternatives


def test_alternatives_do_not_change_the_text(channel: grpc.Channel) -> None:
    with_them, without = text_of(channel, top_alternatives=20), text_of(channel)
    assert replace(with_them, alternatives=[]) == without


def test_alternatives_come_without_log_probabilities_too(channel: grpc.Channel) -> None:
    asked = asked_for(top_alternatives=2)
    asked.log_probabilities = False
    _, (text,) = gather(generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked))
    assert text.log_probabilities == []
    assert text.alternatives == text_of(channel, top_alternatives=2).alternatives


def test_a_small_vocabulary_has_fewer_alternatives(few_channel: grpc.Channel) -> None:
    text = text_of(few_channel, prompt="a", top_alternatives=20)
    assert len(text.alternatives) == 60
    for characters, logs in text.alternatives:
        assert sorted(characters) == ["\n", "a", "b"]
        assert math.fsum(map(math.exp, logs)) <= 1 + 1e-6
    assert text_of(few_channel, prompt="a", forbidden_characters="a\n").characters == "b" * 60


# Samples.

TOP = 2**64 - 2

SHARED: list[tuple[str, dict[str, Any]]] = [
    ("tiny", {"prompt": "The cat was " * 40}),
    ("tiny", {"prompt": "Th"}),
    ("tiny", {"prompt": "T"}),
    ("tiny", {"prompt": ""}),
    ("tiny", {"prompt": "T€he £", "seed": TOP, "temperature": 1.5}),
    ("tiny", {"stop": ["e", "s"], "count": 300}),
    ("tiny", {"stop": [a + b for a in "etao" for b in "etao"], "count": 300}),
    ("tiny", {"top_k": 4, "top_p": 0.9, "min_p": 0.05, "biases": biases({"e": -1}), "forbidden_characters": "\n"}),
    ("tiny", {"top_alternatives": 3}),
    ("characters", {"prompt": "The cat"}),
    ("bytes", {"prompt": "é你 and 𝄞"}),
    ("bytes", {"prompt": "𝄞"}),
    ("bytes", {"prompt": ""}),
    ("lines", {"prompt": "The", "count": 300}),
    ("lines", {"prompt": "", "count": 300}),
    ("byte-lines", {"prompt": "é", "count": 300}),
    ("gru", {"prompt": "The cat"}),
    ("rnn", {"prompt": "The cat"}),
]


@pytest.mark.parametrize(("model", "fields"), SHARED)
def test_each_sample_equals_the_request_alone_with_its_seed(
    channel: grpc.Channel, kinds_channel: grpc.Channel, model: str, fields: dict[str, Any]
) -> None:
    peer = channel if model == "tiny" else kinds_channel
    fields = {"model": model, "seed": 11} | fields
    samples = generate(peer, samples=5, **fields)
    alone = [text_of(peer, **fields | {"seed": (fields["seed"] + i) % 2**64}) for i in range(5)]
    assert samples == alone  # text, log-probabilities, alternatives, reason and ticket, to the bit
    assert len({sample.finished.ticket for sample in samples}) == 5


@pytest.mark.parametrize("prompt", ["", " and the cats", "x"])
def test_samples_continue_a_ticket_too(channel: grpc.Channel, prompt: str) -> None:
    ticket = text_of(channel, seed=TOP).ticket
    of_ticket = asked_for(prompt, ticket=ticket, samples=4)
    of_ticket.sampling.ClearField("seed")
    seed, samples = gather(generation_pb2_grpc.GenerationServiceStub(channel).Generate(of_ticket))
    assert seed == TOP
    assert samples == [text_of(channel, prompt=prompt, ticket=ticket, seed=(TOP + i) % 2**64) for i in range(4)]


def test_the_server_chooses_one_seed_for_all_samples_and_reports_it(channel: grpc.Channel) -> None:
    asked = asked_for(samples=3)
    asked.sampling.ClearField("seed")
    seed, samples = gather(generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked))
    assert samples == generate(channel, samples=3, seed=seed)
    assert len({sample.characters for sample in samples}) == 3


def test_none_and_one_and_the_most_samples(channel: grpc.Channel) -> None:
    (alone,) = generate(channel)
    assert generate(channel, samples=0) == generate(channel, samples=1) == [alone]
    most = generate(channel, samples=64)
    assert len(most) == 64
    assert most[:1] == [alone]
    assert most[:63] == generate(channel, samples=63)


def test_samples_may_end_for_different_reasons_and_at_different_times(channel: grpc.Channel) -> None:
    texts = generate(channel, samples=16, count=20, stop=["e", "t", "a"])
    assert {text.finished.reason for text in texts} == {pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH}
    for text in texts:
        assert text.finished.generated_count == len(text.characters)
        assert text.finished.stop == (text.characters[-1] if text.finished.reason == pb.FINISH_REASON_STOP else "")


def test_a_shared_prompt_is_read_by_one_sequence(model: Model) -> None:
    generation = checked(asked_for("The cat", samples=8), model)
    prompt = generation.prompt()
    assert prompt is not None
    assert (len(prompt.prefill_ids), prompt.max_characters) == (6, 0)
    sequences = generation.sequences(prompt.state)
    assert [(len(sequence.prefill_ids), sequence.max_characters) for sequence in sequences] == [(0, 60)] * 8
    assert len({id(sequence.stops) for sequence in sequences}) == 8  # each knows how its own text ends
    assert checked(asked_for("The cat"), model).prompt() is None
    assert checked(asked_for("T", samples=8), model).prompt() is None


# Limits.


@pytest.mark.parametrize(
    "fields",
    [
        {"min_p": 0.0},
        {"min_p": BELOW_ONE},
        {"biases": biases({"a": 100, "é": -100})},
        {"biases": biases(dict.fromkeys(CHINESE[:255], 1.0))},
        {"biases": biases(dict.fromkeys(CHINESE[:256], 1.0))},
        {"biases": biases({"e\u0301": 1.0})},
        {"allowed_characters": "a" * 10_000},
        {"forbidden_characters": "a" * 10_000},
        {"allowed_characters": "\r"},
        {"forbidden_characters": "".join(CHINESE)},
        {"allowed_characters": "a", "forbidden_characters": "".join(CHINESE) + "é\n"},
        {"samples": 63},
        {"samples": 64},
        {"top_alternatives": 0},
        {"top_alternatives": 19},
        {"top_alternatives": 20},
    ],
)
def test_a_field_may_go_to_its_limit(wide_model: Model, fields: dict[str, Any]) -> None:
    assert checked(asked_for("a", **fields), wide_model)


ASCII_ONLY = "this model's symbols are bytes, so only characters of one byte (ASCII) can be named"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"min_p": 1.0}, "min_p is 1; it must be at least 0 and below 1"),
        ({"min_p": -1e-9}, "min_p is -1e-09; it must be"),
        ({"min_p": math.nan}, "min_p is nan"),
        ({"biases": biases({"a": ABOVE_100})}, "bias of 'a' is 100.00000000000001; it must be from -100 to 100"),
        ({"biases": biases({"a": -ABOVE_100})}, "bias of 'a' is -100.00000000000001"),
        ({"biases": biases({"a": math.nan})}, "bias of 'a' is nan"),
        ({"biases": biases({"a": -math.inf})}, "bias of 'a' is -inf"),
        ({"biases": biases({"a": 1}) * 2}, "biases: character 'a' has a bias already"),
        ({"biases": biases({"\n": 1, "\r": 1})}, r"biases: character '\r' has a bias already"),
        ({"biases": biases({"a": 1}) * 257}, "number of biases: 257; at most 256 are allowed"),
        ({"biases": biases({"": 1})}, "biases: '' is 0 characters once normalized; give exactly one"),
        ({"biases": biases({"a": 1, "ab": 1})}, "biases: 'ab' is 2 characters once normalized; give exactly one"),
        ({"biases": biases({"<unk>": 1})}, "biases: '<unk>' is 5 characters once normalized"),
        ({"biases": biases({"a" * 5000: 1})}, "is 5000 characters once normalized; give exactly one"),
        ({"biases": biases({"€": 1})}, "biases: character '€' is not in the model's vocabulary"),
        ({"allowed_characters": "ab€"}, "allowed_characters: character '€' is not in the model's vocabulary"),
        ({"forbidden_characters": "£b€"}, "forbidden_characters: character '£' is not in the model's vocabulary"),
        ({"allowed_characters": "a\ufeff"}, r"allowed_characters: '\ufeff' is 0 characters once normalized"),
        ({"allowed_characters": "a" * 10_001}, "characters of allowed_characters: 10,001; at most 10,000 are allowed"),
        ({"forbidden_characters": "a" * 10_001}, "characters of forbidden_characters: 10,001; at most 10,000"),
        ({"allowed_characters": "ab", "forbidden_characters": "bca"}, "leave no character to write"),
        ({"samples": 65}, "samples: 65; at most 64 are allowed"),
        ({"samples": 2**32 - 1}, "samples: 4,294,967,295; at most 64 are allowed"),
        ({"top_alternatives": 21}, "top_alternatives: 21; at most 20 are allowed"),
        ({"model": "bytes", "top_alternatives": 1}, "top_alternatives is 1; this model's symbols are bytes"),
        ({"model": "bytes", "biases": biases({"é": 1})}, f"biases: character 'é' takes 2 bytes; {ASCII_ONLY}"),
        (
            {"model": "bytes", "allowed_characters": "a€"},
            f"allowed_characters: character '€' takes 3 bytes; {ASCII_ONLY}",
        ),
        ({"model": "bytes", "forbidden_characters": "\x80"}, "forbidden_characters: character '\\x80' takes 2 bytes"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_range(
    kinds_channel: grpc.Channel, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        generate(kinds_channel, **{"model": "characters"} | fields)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in refusal.value.details()
    assert len(refusal.value.details()) < 300


def test_what_normalization_makes_of_a_character_counts(wide_model: Model) -> None:
    composed = read(asked_for("a", biases=biases({"é": 1})), wide_model).sampling
    assert read(asked_for("a", biases=biases({"e\u0301": 1})), wide_model).sampling == composed
    with pytest.raises(InvalidRequest, match="leave no character to write"):
        read(asked_for("a", forbidden_characters="".join(CHINESE) + "aé\r"), wide_model)


# Places, and calls that end before their texts do.


def room_for_three() -> Admission:
    return Admission(Capacity(memory=2**30, places=3), longest_wait=2.0)


def endless(channel: grpc.Channel, samples: int = 1) -> Any:
    asked = asked_for(count=FOREVER, samples=samples)
    return generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked, timeout=60)


FOUR_PLACES = ("--max-sequences", "4")


@pytest.fixture(scope="module")
def full(start_server: Any) -> Iterator[grpc.Channel]:
    """A connection to a server with four places."""
    with start_server(*FOUR_PLACES) as server, grpc.insecure_channel(server.address) as channel:
        yield channel


def generate_when_there_is_room(channel: grpc.Channel, samples: int) -> list[Text]:
    deadline = time.monotonic() + 10
    while True:
        try:
            return generate(channel, samples=samples)
        except grpc.RpcError as refusal:
            if refusal.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def test_all_samples_find_room_or_none(full: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        generate(full, samples=5)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "places for sequences: 5 needed; this server has 4" in refusal.value.details()
    assert len(generate_when_there_is_room(full, 4)) == 4
    stream = endless(full)
    next(stream)
    with pytest.raises(grpc.RpcError) as refusal:
        generate(full, samples=4)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "places for sequences: 4 needed, 3 of 4 free" in refusal.value.details()
    status = status_pb2.Status.FromString(dict(refusal.value.trailing_metadata())["grpc-status-details-bin"])
    assert any(detail.Unpack(error_details_pb2.RetryInfo()) for detail in status.details)
    assert len(generate(full, samples=3)) == 3  # the refused call holds no place
    stream.cancel()


def test_a_call_that_is_given_up_frees_the_places_of_all_samples(full: grpc.Channel) -> None:
    stream = endless(full, samples=4)
    seen = set()
    while len(seen) < 2:  # of two that run, both bring text, and neither waits for the other's end
        seen.add(next(stream).sample)
    stream.cancel()
    assert len(generate_when_there_is_room(full, 4)) == 4


def test_sigterm_ends_every_sample_with_a_ticket_that_continues_it(start_server: Any, channel: grpc.Channel) -> None:
    with (
        start_server("--drain-grace", "0.2") as server,
        grpc.insecure_channel(server.address) as stopping,
    ):
        stream = endless(stopping, samples=3)
        seen = [next(stream) for _ in range(10)]
        server.process.send_signal(signal.SIGTERM)
        _, texts = gather(itertools.chain(seen, stream))
        assert server.process.wait(timeout=10) == 0
    assert len(texts) == 3
    for i, text in enumerate(texts):
        assert text.finished.reason == pb.FINISH_REASON_DRAINED
        rest = text_of(channel, prompt="", ticket=text.ticket, seed=7 + i)
        whole = text_of(channel, seed=7 + i, count=len(text.characters) + 60)
        assert text.characters + rest.characters == whole.characters


def test_sigterm_while_the_shared_prompt_is_read_fails_the_call_for_another_server(start_server: Any) -> None:
    with start_server("--drain-grace", "0") as server, grpc.insecure_channel(server.address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        stream = stub.Generate(asked_for("The cat " * 120_000, count=1, samples=3))
        assert next(stream).HasField("started")
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as refusal:
            list(stream)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "has not read the whole text" in refusal.value.details()


def test_places_can_be_given_back_one_by_one() -> None:
    admission = room_for_three()
    with admission.exactly(3, NOBODY) as give_back:
        with pytest.raises(Overloaded, match="0 of 3 free"), admission.exactly(1, NOBODY):
            pass
        give_back()
        with (
            pytest.raises(Overloaded, match=r"places for sequences: 2 needed, 1 of 3 free"),
            admission.exactly(2, NOBODY),
        ):
            pass
        with admission.some(2, NOBODY) as granted:
            assert granted == 1
        give_back()
        give_back()
        with admission.exactly(3, NOBODY):
            pass
    with pytest.raises(KeyError), admission.exactly(2, NOBODY) as give_back:
        give_back()
        raise KeyError
    with admission.exactly(3, NOBODY), pytest.raises(Overloaded), admission.exactly(1, NOBODY):
        pass
    with (
        pytest.raises(InvalidRequest, match=r"places for sequences: 4 needed; this server has 3"),
        admission.exactly(4, NOBODY),
    ):
        pass


# The service beside a scripted engine, for what a real one does not do on demand.


class ScriptedStream:
    """Brings "a" as often as it is told, and then an end."""

    def __init__(self, sequence: Sequence, count: int, finish: Finish) -> None:
        self._sequence = sequence
        self._left = count
        self._finish = finish

    async def next_output(self) -> Any:
        await asyncio.sleep(0)
        self._left -= 1
        return SimpleNamespace(
            sequence=self._sequence,
            written=np.array([1]),
            log_probabilities=np.array([-1.0]),
            position=1,
            alternatives=None,
            finish=None if self._left else self._finish,
            stop=None,
            state=self._sequence.state,
        )


class ScriptedWorker:
    """Keeps account of the sequences that it was given and not relieved of."""

    def __init__(self, *finishes: Finish) -> None:
        self.finishes = list(finishes)
        self.opened: list[Sequence] = []
        self.alive: set[Sequence] = set()

    def open(self, sequence: Sequence) -> ScriptedStream:
        stream = ScriptedStream(sequence, 3 + len(self.opened), self.finishes[len(self.opened)])
        self.opened.append(sequence)
        self.alive.add(sequence)
        return stream

    def close(self, sequence: Sequence) -> None:
        self.alive.discard(sequence)


class Client:
    """The other end of a call: like gRPC's, it takes one message at a time."""

    def __init__(self, most: int = FOREVER, when_finished: Callable[[], None] = lambda: None) -> None:
        self.received: list[pb.GenerateResponse] = []
        self._most = most
        self._when_finished = when_finished
        self._busy = False

    async def write(self, data: bytes) -> None:
        response = pb.GenerateResponse.FromString(data)
        assert not self._busy, "two messages at once"
        self._busy = True
        if len(self.received) == self._most:
            await asyncio.Event().wait()
        if response.HasField("finished"):
            self._when_finished()
        await asyncio.sleep(0)
        self.received.append(response)
        self._busy = False


async def call(
    model: Model, worker: ScriptedWorker, client: Client, admission: Admission | None = None, prompt: str = "T"
) -> None:
    """Ask for three samples; of the prompt "T" there is nothing to read. Afterwards all places must be free."""
    admission = admission or room_for_three()
    served = SimpleNamespace(model=model, engine=worker, reproducible=True, build=Build.of(model, bytes(16)))
    served.shared_by = lambda *_: served
    registry: Any = SimpleNamespace(find=lambda *_: served)
    codec: Any = SimpleNamespace(encode=lambda *_: b"")
    nowhere: Any = None  # no call here has a session
    service = GenerationService(registry, admission, StartResolver(codec, nowhere), PrefixCache(0))
    context: Any = client
    one_call = Call(context, TEXT_METHOD, admission, [], Patience(reply=0.05))
    try:
        await service.Generate(asked_for(prompt, samples=3), one_call)
    finally:
        assert worker.alive == set()
        with admission.exactly(3, NOBODY):
            pass


async def test_messages_of_several_samples_never_overlap(model: Model) -> None:
    client = Client()
    await call(model, ScriptedWorker(*[Finish.LENGTH] * 3), client)
    _, texts = gather(iter(client.received))
    assert [len(text.characters) for text in texts] == [3, 4, 5]
    assert client.received[2].sample != client.received[1].sample


async def test_a_sample_that_fails_ends_the_call_and_all_others(model: Model) -> None:
    worker = ScriptedWorker(Finish.LENGTH, Finish.FAULT, Finish.LENGTH)
    with pytest.raises(EngineFailed, match="no finite probabilities"):
        await call(model, worker, Client())
    assert len(worker.opened) == 3


async def test_a_client_that_stalls_loses_all_its_samples(model: Model) -> None:
    with pytest.raises(Stalled, match="the stream was not read"):
        await call(model, ScriptedWorker(*[Finish.LENGTH] * 3), Client(most=4))


async def test_a_call_that_is_cancelled_closes_all_its_samples(model: Model) -> None:
    running = asyncio.ensure_future(call(model, ScriptedWorker(*[Finish.LENGTH] * 3), Client(most=4)))
    await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_shared_prompt_that_fails_opens_no_sample(model: Model) -> None:
    worker = ScriptedWorker(Finish.FAULT)
    with pytest.raises(EngineFailed):
        await call(model, worker, Client(), prompt="The")
    assert len(worker.opened) == 1


async def test_when_the_client_hears_of_an_end_the_place_is_free(model: Model) -> None:
    admission, ended = room_for_three(), []

    def take_the_places() -> None:
        ended.append(None)
        with admission.exactly(len(ended), NOBODY):
            pass

    await call(model, ScriptedWorker(*[Finish.LENGTH] * 3), Client(when_finished=take_the_places), admission)
    assert len(ended) == 3
