"""A server of models other than LSTMs: what it scores is what torch computes, and tickets continue them exactly."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from charlm.v1 import generation_pb2 as pb
from charlm.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc, scoring_pb2, scoring_pb2_grpc, start_pb2
from charlm_export.export import export_checkpoint
from charlm_training.checkpoint import Checkpoint, save_checkpoint

ARCHITECTURES = ("gru", "gru-reset-before", "rnn")
TEXT = "The cat, which already ate a bunch of food, was full.\nThe cats were not; é, 你 and 𝄞 too. " * 3


@pytest.fixture(scope="module")
def checkpoints(make_checkpoint: Callable[..., Checkpoint]) -> dict[str, Checkpoint]:
    return {name: make_checkpoint(2, 24, seed, name) for seed, name in enumerate(ARCHITECTURES)}


@pytest.fixture(scope="module")
def channel(
    checkpoints: dict[str, Checkpoint], start_server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[grpc.Channel]:
    """A connection to one server of a model of each architecture, named after it."""
    folder: Path = tmp_path_factory.mktemp("architectures")
    for name, checkpoint in checkpoints.items():
        save_checkpoint(folder / name, checkpoint)
        export_checkpoint(folder / name, folder / "models", name)
    with start_server(models=folder / "models") as server, grpc.insecure_channel(server.address) as channel:
        yield channel


def generate(channel: grpc.Channel, model: str, **fields: object) -> tuple[str, pb.GenerationFinished]:
    asked = pb.GenerateRequest(model=start_pb2.ModelReference(name=model), return_ticket=True, **fields)
    responses = list(generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked, timeout=60))
    return "".join(part.text.text for part in responses[1:-1]), responses[-1].finished


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_are_those_of_torch(channel: grpc.Channel, checkpoints: dict[str, Checkpoint], name: str) -> None:
    model = checkpoints[name].build_model()
    ids = torch.from_numpy(checkpoints[name].vocabulary.encode(TEXT))
    with torch.no_grad():
        logits_BTV, *_ = model(ids[None, :-1], *model.zero_state())
    expected = logits_BTV[0].log_softmax(dim=-1).gather(1, ids[1:, None])[:, 0]
    asked = scoring_pb2.ScoreRequest(model=start_pb2.ModelReference(name=name), texts=[TEXT], log_probabilities=True)
    (found,) = scoring_pb2_grpc.ScoringServiceStub(channel).Score(asked, timeout=60).scores
    np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_ticket_continues_the_stream_exactly(channel: grpc.Channel, name: str) -> None:
    sampling = pb.Sampling(seed=7)
    whole, end = generate(channel, name, prompt="The", max_characters=60, sampling=sampling)
    assert len(set(whole)) > 5
    for cut in (1, 17, 59):
        first, finished = generate(channel, name, prompt="The", max_characters=cut, sampling=sampling)
        ticket = start_pb2.Start(ticket=finished.ticket)
        rest, finished = generate(channel, name, start=ticket, max_characters=60 - cut)
        assert first + rest == whole
        assert finished.ticket == end.ticket


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_server_says_what_it_serves_and_that_results_are_reproducible(channel: grpc.Channel, name: str) -> None:
    asked = model_pb2.GetModelRequest(model=start_pb2.ModelReference(name=name))
    model = model_pb2_grpc.ModelServiceStub(channel).GetModel(asked, timeout=60).model
    assert model.architecture == name
    assert model.reproducible
