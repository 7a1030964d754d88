"""How a server starts, refuses to start, fills up, and stops."""

import itertools
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from segue.v1 import common_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc, scoring_pb2, scoring_pb2_grpc
from segue.v1 import generation_pb2 as pb
from segue_export.artifact import read_artifact, write_artifact
from segue_export.graphs.portable import portable_graph
from segue_training.train.checkpoint import Checkpoint

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def segue_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "segue_client", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def health(channel: grpc.Channel) -> int:
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status


def endless(channel: grpc.Channel, seed: int = 1) -> Iterator[pb.GenerateResponse]:
    asked = pb.GenerateRequest(prompt="The", max_characters=1_000_000, sampling=pb.Sampling(seed=seed))
    return generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked)


def admitted_again(channel: grpc.Channel) -> Iterator[pb.GenerateResponse]:
    """A stream, as soon as the server has room; it frees a place within ticks of a cancellation."""
    deadline = time.monotonic() + 10
    while True:
        stream = endless(channel)
        try:
            return itertools.chain([next(stream)], stream)
        except grpc.RpcError as refusal:
            if refusal.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def one_line(stderr: str) -> str:
    """The error, without the log lines before it."""
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith(("Error:", "Usage:", "Try"))][-1:]
    return line


def test_the_model_is_described(channel: grpc.Channel) -> None:
    stub = model_pb2_grpc.ModelServiceStub(channel)
    (listed,) = stub.ListModels(model_pb2.ListModelsRequest()).models
    described = stub.GetModel(model_pb2.GetModelRequest(model=common_pb2.ModelReference(name="tiny"))).model
    assert listed.sha256 == described.sha256
    assert (described.name, described.version, described.layers, described.hidden) == ("tiny", 1, 2, 24)
    assert list(described.vocabulary)[:2] == ["<unk>", " "]
    assert (described.begin, described.normalization, described.provider) == (
        "\n",
        "line-feeds",
        "CPUExecutionProvider",
    )
    assert (described.architecture, described.alphabet, described.documents) == ("lstm", "characters", "none")
    assert described.reproducible


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"segue.v1.GenerationService", "segue.v1.ScoringService", "grpc.health.v1.Health"} <= set(services)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_answers_under_both_of_its_names(channel: grpc.Channel, version: str) -> None:
    service = f"grpc.reflection.{version}.ServerReflection"
    ask = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (listed,) = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="*")]))
    names = [each.name for each in listed.list_services_response.service]
    assert {service, "segue.v1.GenerationService", "grpc.health.v1.Health"} <= set(names)
    symbols = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    for name, answer in zip(names, ask(iter(symbols)), strict=True):
        (file,) = map(
            descriptor_pb2.FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto[:1]
        )
        assert name in {f"{file.package}.{each.name}" for each in file.service}


def test_a_full_server_refuses_at_once_says_when_to_retry_and_stays_healthy(start_server) -> None:
    options = ("--max-sequences", "2")
    with start_server(*options) as server, grpc.insecure_channel(server.address) as channel:
        streams = [endless(channel), endless(channel)]
        for stream in streams:
            next(stream)
        with pytest.raises(grpc.RpcError) as refusal:
            next(endless(channel))
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = status_pb2.Status.FromString(dict(refusal.value.trailing_metadata())["grpc-status-details-bin"])
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in status.details)
        assert retry.retry_delay.ToMilliseconds() > 0
        assert health(channel) == SERVING
        streams[0].cancel()
        texts = (part for part in streams[1] if part.HasField("text"))
        assert next(texts).text.text
        assert next(admitted_again(channel)).HasField("started")
        streams[1].cancel()


def test_sigterm_ends_streams_with_a_ticket_that_continues_them_elsewhere(start_server) -> None:
    with start_server("--drain-grace", "0.5") as server, grpc.insecure_channel(server.address) as channel:
        stream = endless(channel)
        delivered = "".join(part.text.text for part in itertools.islice(stream, 5))
        server.process.send_signal(signal.SIGTERM)
        *rest, last = list(stream)
        delivered += "".join(part.text.text for part in rest)
        assert last.finished.reason == pb.FINISH_REASON_DRAINED
        assert last.finished.generated_count == len(delivered)
        assert server.process.wait(timeout=10) == 0
    with start_server() as server, grpc.insecure_channel(server.address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        sampling = pb.Sampling(seed=1)
        start = common_pb2.Start(ticket=last.finished.ticket)
        continued = stub.Generate(pb.GenerateRequest(start=start, max_characters=100))
        count = len(delivered) + 100
        whole = stub.Generate(pb.GenerateRequest(prompt="The", max_characters=count, sampling=sampling))
        text = delivered + "".join(part.text.text for part in continued)
        assert text == "".join(part.text.text for part in whole)


def test_sigterm_while_a_prompt_is_read_fails_the_call_for_another_server(start_server) -> None:
    with start_server("--drain-grace", "0") as server, grpc.insecure_channel(server.address) as channel:
        asked = pb.GenerateRequest(prompt="The cat " * 120_000, max_characters=1)
        stream = generation_pb2_grpc.GenerationServiceStub(channel).Generate(asked)
        assert next(stream).HasField("started")
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as refusal:
            list(stream)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "has not read the whole text" in refusal.value.details()


STALLING_CLIENT = """
import sys, time, grpc
from segue.v1 import generation_pb2 as pb, generation_pb2_grpc
stub = generation_pb2_grpc.GenerationServiceStub(grpc.insecure_channel(sys.argv[1]))
asked = pb.GenerateRequest(prompt="The", max_characters=1_000_000, log_probabilities=True)
calls = [stub.Generate(asked) for _ in range(6)]
for call in calls:
    next(call)
print("reading", flush=True)
time.sleep(600)
"""


@contextmanager
def stopped_client(address: str) -> Iterator[None]:
    """A process with six open streams, stopped in the midst of reading them."""
    command = [sys.executable, "-c", STALLING_CLIENT, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "reading\n"
            client.send_signal(signal.SIGSTOP)
            yield
        finally:
            client.kill()


def test_clients_that_stop_reading_lose_their_places_and_hold_up_nobody(start_server) -> None:
    options = ("--stall-timeout", "0.5", "--max-sequences", "8", "--drain-grace", "20")
    with (
        start_server(*options) as server,
        grpc.insecure_channel(server.address) as channel,
        stopped_client(server.address),
    ):
        scored = scoring_pb2_grpc.ScoringServiceStub(channel).Score(scoring_pb2.ScoreRequest(texts=["The cat"]))
        assert scored.scores[0].scored_count == 6
        stub, deadline = model_pb2_grpc.ModelServiceStub(channel), time.monotonic() + 60
        while stub.GetModel(model_pb2.GetModelRequest()).model.live_sequences:
            assert time.monotonic() < deadline, "a stream that nobody reads is still alive"
            time.sleep(0.1)
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 15, "the drain waited for clients that never read"


def test_of_several_models_one_must_be_named(kinds_channel: grpc.Channel, kinds: dict[str, Checkpoint]) -> None:
    stub = model_pb2_grpc.ModelServiceStub(kinds_channel)
    assert [model.name for model in stub.ListModels(model_pb2.ListModelsRequest()).models] == sorted(kinds)
    named = model_pb2.GetModelRequest(model=common_pb2.ModelReference(name="lines"))
    assert stub.GetModel(named).model.name == "lines"
    with pytest.raises(grpc.RpcError) as refusal:
        stub.GetModel(model_pb2.GetModelRequest())
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"name one of {', '.join(sorted(kinds))}" in refusal.value.details()


def test_after_the_lag_new_calls_are_unavailable_while_old_ones_end(start_server) -> None:
    with start_server("--drain-grace", "5") as server, grpc.insecure_channel(server.address) as channel:
        stream = endless(channel)
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while health(channel) == SERVING:
            assert time.monotonic() < deadline
        time.sleep(0.2)
        with pytest.raises(grpc.RpcError) as refusal:
            scoring_pb2_grpc.ScoringServiceStub(channel).Score(scoring_pb2.ScoreRequest(texts=["a"]))
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert next(stream).text.text
        stream.cancel()
        assert server.process.wait(timeout=10) == 0


def test_sigterm_is_announced_and_lets_short_calls_end(start_server) -> None:
    with start_server("--drain-lag", "1") as server, grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        scored = scoring_pb2_grpc.ScoringServiceStub(channel).Score(scoring_pb2.ScoreRequest(texts=["The cat"]))
        assert scored.scores[0].scored_count == 6  # within the lag, calls are still answered
        watch.cancel()
        assert server.process.wait(timeout=10) == 0


def test_a_port_in_use_is_named(server_address: str, models_folder: Path) -> None:
    port = server_address.rsplit(":", 1)[1]
    done = segue_serve(str(models_folder), "--port", port, "--device", "cpu")
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in one_line(done.stderr)
    assert "--port" in one_line(done.stderr)
    assert not done.stdout


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="CUDA is there")
def test_cuda_where_there_is_none_ends_with_the_reason(models_folder: Path) -> None:
    done = segue_serve(str(models_folder), "--port", "0", "--device", "cuda")
    assert done.returncode == 1
    assert "no CUDA support" in one_line(done.stderr)
    assert "the extra server-gpu" in one_line(done.stderr)


def test_a_public_address_needs_a_word(models_folder: Path) -> None:
    done = segue_serve(str(models_folder), "--port", "0", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "--insecure" in done.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda f: (f / "model.onnx").write_bytes((f / "model.onnx").read_bytes()[:-1]),
            "is not an ONNX model, or not a whole",
        ),
        (lambda f: (f / "model.onnx").unlink(), "model.onnx cannot be read"),
        (lambda f: (f / "manifest.json").write_text('{"format_version": 1}'), "missing required field"),
        (lambda f: (f / "manifest.json").write_bytes(b"\x80pickle"), "manifest.json"),
        (shutil.rmtree, "holds no model"),
        (lambda f: shutil.rmtree(f.parent.parent), "is not a folder"),
    ],
)
def test_a_damaged_artifact_is_named(models_folder: Path, tmp_path: Path, damage, words: str) -> None:
    models = shutil.copytree(models_folder, tmp_path / "models")
    damage(models / "tiny" / "1")
    done = segue_serve(str(models), "--port", "0", "--device", "cpu")
    assert done.returncode in (1, 2)
    assert words in one_line(done.stderr)
    assert not done.stdout


def test_weights_that_overflow_after_the_first_step_are_named(models_folder: Path, tmp_path: Path) -> None:
    sound = read_artifact(models_folder / "tiny" / "1")
    weights = dict(sound.weights)
    weights["output.weight"] = weights["output.weight"] * np.float32(1e38)
    write_artifact(tmp_path / "models", "tiny", sound.manifest, portable_graph(sound.manifest, weights))
    done = segue_serve(str(tmp_path / "models"), "--port", "0", "--device", "cpu", "--state", str(tmp_path / "state"))
    assert done.returncode == 1
    assert "model tiny version 1: its results are not finite numbers within" in one_line(done.stderr)
    assert "train it again" in one_line(done.stderr)
    assert not done.stdout


def test_a_model_outside_the_folder_is_named(models_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(models_folder / "tiny")
    done = segue_serve(str(tmp_path / "models"), "--port", "0", "--device", "cpu", "--state", str(tmp_path / "state"))
    assert done.returncode == 1
    assert f"{tmp_path}/models/tiny/1 is a link to a folder outside" in one_line(done.stderr)
    assert not done.stdout
