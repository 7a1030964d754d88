"""A server of models other than LSTMs: what it scores is what torch computes, and tickets continue them exactly."""

import grpc
import numpy as np
import pytest
import torch
from segue.v1 import common_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc, scoring_pb2, scoring_pb2_grpc
from segue.v1 import generation_pb2 as pb
from segue_training.train.checkpoint import Checkpoint
from unsealing import unsealed

ARCHITECTURES = ("gru", "gru-reset-before", "rnn")
TEXT = "The cat, which already ate a bunch of food, was full.\nThe cats were not; é, 你 and 𝄞 too. " * 3


def generate(channel: grpc.Channel, model: str, **fields: object) -> tuple[str, pb.GenerationFinished]:
    asked = pb.GenerateRequest(model=common_pb2.ModelReference(name=model), return_ticket=True, **fields)
    responses = list(generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked, timeout=60))
    return "".join(part.text.text for part in responses[1:-1]), responses[-1].finished


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_are_those_of_torch(kinds_channel: grpc.Channel, kinds: dict[str, Checkpoint], name: str) -> None:
    model = kinds[name].build_model()
    ids = torch.from_numpy(kinds[name].vocabulary.encode(TEXT))
    with torch.no_grad():
        logits_BTV, *_ = model(ids[None, :-1], *model.zero_state())
    expected = logits_BTV[0].log_softmax(dim=-1).gather(1, ids[1:, None])[:, 0]
    asked = scoring_pb2.ScoreRequest(model=common_pb2.ModelReference(name=name), texts=[TEXT], log_probabilities=True)
    (found,) = scoring_pb2_grpc.ScoringServiceStub(kinds_channel).Score(asked, timeout=60).scores
    np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_ticket_continues_the_stream_exactly(kinds_channel: grpc.Channel, name: str) -> None:
    sampling = pb.Sampling(seed=7)
    whole, end = generate(kinds_channel, name, prompt="The", max_characters=60, sampling=sampling)
    assert len(set(whole)) > 5
    for cut in (1, 17, 59):
        first, finished = generate(kinds_channel, name, prompt="The", max_characters=cut, sampling=sampling)
        ticket = common_pb2.Start(ticket=finished.ticket)
        rest, finished = generate(kinds_channel, name, start=ticket, max_characters=60 - cut)
        assert first + rest == whole
        assert unsealed(finished.ticket) == unsealed(end.ticket)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_server_says_what_it_serves_and_that_results_are_reproducible(
    kinds_channel: grpc.Channel, name: str
) -> None:
    asked = model_pb2.GetModelRequest(model=common_pb2.ModelReference(name=name))
    model = model_pb2_grpc.ModelServiceStub(kinds_channel).GetModel(asked, timeout=60).model
    assert model.architecture == name
    assert model.reproducible
