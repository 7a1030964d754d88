"""A model of bytes through real gRPC: on the wire there are only whole characters."""

import math
import random
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segue.v1 import common_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc, scoring_pb2, scoring_pb2_grpc
from segue.v1 import generation_pb2 as pb
from segue_server.api.generation_request import read_generation
from segue_server.engine.build import Build
from segue_server.engine.engine import Engine
from segue_server.engine.model import Model
from segue_server.runtime.time_slices import at_once
from segue_server.state.start import StartState
from segue_training.train.checkpoint import Checkpoint
from unsealing import unsealed

BYTES = common_pb2.ModelReference(name="bytes")
TEXTS = st.text(st.sampled_from("The caté你𝄞€\n\ufffd\0") | st.characters(exclude_categories=["Cs"]), max_size=60)
over_grpc = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def request(seed: int, **fields: object) -> pb.GenerateRequest:
    """A request of its own length and settings."""
    generator = random.Random(seed)
    sampling = pb.Sampling(
        seed=seed,
        temperature=generator.choice([0, 0.7, 1, 3]),
        top_k=generator.choice([0, 0, 3]),
        top_p=generator.choice([1, 0.9]),
    )
    return pb.GenerateRequest(
        model=BYTES,
        prompt="".join(generator.choices("the é你𝄞", k=generator.randrange(40))),
        sampling=sampling,
        max_characters=generator.randrange(1, 150),
        log_probabilities=True,
        return_ticket=True,
        **fields,
    )


def generate(channel: grpc.Channel, asked: pb.GenerateRequest) -> tuple[list[pb.GeneratedText], pb.GenerationFinished]:
    responses: Iterator[pb.GenerateResponse] = generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked)
    _, *chunks, finished = responses
    return [chunk.text for chunk in chunks], finished.finished


def score(channel: grpc.Channel, text: str, **fields: object) -> scoring_pb2.TextScore:
    asked = scoring_pb2.ScoreRequest(model=BYTES, texts=[text], log_probabilities=True, return_tickets=True, **fields)
    return scoring_pb2_grpc.ScoringServiceStub(channel).Score(asked, timeout=60).scores[0]


def bytes_written(model: Model, asked: pb.GenerateRequest) -> bytes:
    """What the engine writes for a request, without any decoding on the way."""
    engine, written = Engine(model), []
    (sequence,) = at_once(read_generation(asked, model, StartState.nothing(Build.of(model, bytes(16))))).sequences()
    engine.add(sequence)
    while len(engine):
        written += [output.written - 1 for output in engine.step(50, 10_000)]
    return np.concatenate(written).astype(np.uint8).tobytes()


@given(seed=st.integers(0, 2**32))
@over_grpc
def test_the_chunks_join_to_exactly_the_bytes_that_the_model_writes(
    kinds_channel: grpc.Channel, kinds_loaded: dict[str, Model], seed: int
) -> None:
    asked = request(seed)
    chunks, finished = generate(kinds_channel, asked)
    text = "".join(chunk.text for chunk in chunks)
    assert text.encode() == bytes_written(kinds_loaded["bytes"], asked)
    assert finished.generated_count == len(text) == asked.max_characters
    position = len((asked.prompt or "\n").encode())
    for chunk in chunks:
        position += len(chunk.text.encode())
        assert chunk.position == position
        assert len(chunk.log_probabilities) == len(chunk.text)


@given(seed=st.integers(0, 2**32))
@settings(over_grpc, max_examples=6)
def test_a_ticket_at_every_chunk_s_end_continues_the_stream_exactly(kinds_channel: grpc.Channel, seed: int) -> None:
    asked = request(seed)
    chunks, end = generate(kinds_channel, asked)
    delivered = 0
    for i, chunk in enumerate(chunks[:-1]):
        delivered += len(chunk.text)
        first = pb.GenerateRequest()
        first.CopyFrom(asked)
        first.max_characters = delivered
        _, cut = generate(kinds_channel, first)
        rest = pb.GenerateRequest()
        rest.CopyFrom(asked)
        rest.prompt, rest.max_characters = "", asked.max_characters - delivered
        rest.start.ticket = cut.ticket
        again, finished = generate(kinds_channel, rest)
        assert "".join(c.text for c in again) == "".join(c.text for c in chunks[i + 1 :])
        assert [p for c in again for p in c.log_probabilities] == [
            p for c in chunks[i + 1 :] for p in c.log_probabilities
        ]
        assert unsealed(finished.ticket) == unsealed(end.ticket)


@given(text=TEXTS, cut=st.integers(0, 60))
@over_grpc
def test_the_sums_of_two_parts_equal_the_whole_exactly(kinds_channel: grpc.Channel, text: str, cut: int) -> None:
    whole, first = score(kinds_channel, text), score(kinds_channel, text[:cut])
    rest = {"start": common_pb2.Start(ticket=first.ticket)} if first.ticket else {}
    second = score(kinds_channel, text[cut:], **rest)
    assert first.sum_log_probability + second.sum_log_probability == whole.sum_log_probability
    assert [*first.log_probabilities, *second.log_probabilities] == list(whole.log_probabilities)
    assert math.fsum(whole.log_probabilities) == whole.sum_log_probability
    assert (first.unknown_count, second.unknown_count, whole.unknown_count) == (0, 0, 0)
    assert unsealed(second.ticket) == unsealed(whole.ticket) or not text[cut:]


@pytest.mark.parametrize("text", ["é", "你", "𝄞", "a", "你é", "The caté, 你 and 𝄞 " * 40])
def test_all_bytes_after_the_first_character_are_scored_as_torch_scores_them(
    kinds_channel: grpc.Channel, kinds: dict[str, Checkpoint], text: str
) -> None:
    found = score(kinds_channel, text)
    model, ids = kinds["bytes"].build_model(), torch.from_numpy(kinds["bytes"].vocabulary.encode(text))
    with torch.inference_mode():
        logits, *_ = model(ids[None], *model.zero_state())
    of_bytes = logits[0].double().log_softmax(1)[torch.arange(len(ids) - 1), ids[1:]]
    scored = of_bytes[len(text[0].encode()) - 1 :]
    assert found.scored_count == len(text) - 1 == len(found.log_probabilities)
    assert found.sum_log_probability == pytest.approx(float(scored.sum()), rel=1e-5, abs=1e-5)


def test_generated_characters_have_the_log_probabilities_that_scoring_gives(kinds_channel: grpc.Channel) -> None:
    asked = request(5)
    chunks, _ = generate(kinds_channel, asked)
    text = "".join(chunk.text for chunk in chunks)
    scored = score(kinds_channel, asked.prompt + text).log_probabilities
    assert list(scored)[-len(text) :] == [p for chunk in chunks for p in chunk.log_probabilities]


def test_a_stop_string_of_several_bytes_ends_the_text(kinds_channel: grpc.Channel) -> None:
    asked = pb.GenerateRequest(model=BYTES, prompt="The", sampling=pb.Sampling(seed=3), max_characters=300)
    text = "".join(chunk.text for chunk in generate(kinds_channel, asked)[0])
    stop = next(character for character in text[20:] if len(character.encode()) > 1)
    asked.stop.append(stop)
    chunks, finished = generate(kinds_channel, asked)
    assert "".join(chunk.text for chunk in chunks) == text[: text.index(stop) + 1]
    assert (finished.reason, finished.stop) == (pb.FINISH_REASON_STOP, stop)


def test_no_character_is_unknown(kinds_channel: grpc.Channel) -> None:
    refuse = common_pb2.UNKNOWN_POLICY_REFUSE
    policies = scoring_pb2.ScoringPolicies(unknown=refuse)
    assert score(kinds_channel, "any \u0378 character", policies=policies).scored_count == 14
    assert generate(kinds_channel, request(1, unknown_policy=refuse))[1].generated_count


def test_the_model_says_that_its_symbols_are_bytes(kinds_channel: grpc.Channel) -> None:
    asked = model_pb2.GetModelRequest(model=BYTES)
    model = model_pb2_grpc.ModelServiceStub(kinds_channel).GetModel(asked).model
    assert (model.alphabet, model.documents, list(model.vocabulary), model.begin) == ("bytes", "none", [], "\n")
    assert model.reproducible
