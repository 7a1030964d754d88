"""Metrics over HTTP, as Prometheus reads them, against what GetModel says and what was asked."""

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from segue.v1 import (
    common_pb2,
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)
from segue_server.prefix_cache.cache import WORTH

KIND = "characters"
SMALL = 2**18
"""Bytes of a few calls that hold nothing long."""
PROMPT = "the cat sat on the mat. " * (1 + WORTH // 24)


@pytest.fixture(scope="module")
def measured(start_server, kinds_folder: Path) -> Iterator[tuple[str, grpc.Channel]]:
    with start_server("--metrics-port", "0", models=kinds_folder) as server:
        found = re.search(r"metrics: (http://127\.0\.0\.1:\d+/metrics)\n", server.log.read_text())
        assert found
        with grpc.insecure_channel(server.address) as channel:
            yield found[1], channel


def samples_of(url: str) -> list[Sample]:
    with urllib.request.urlopen(url, timeout=10) as reply:
        families = text_string_to_metric_families(reply.read().decode())
        return [sample for family in families for sample in family.samples]


def taken(url: str) -> float:
    """Return how many bytes of the server's memory are taken."""
    [found] = [sample.value for sample in samples_of(url) if sample.name == "segue_memory_taken_bytes"]
    return found


def figures(url: str) -> dict[tuple[str, ...], float]:
    """Return each figure of the model by its name and `result`."""
    samples = [sample for sample in samples_of(url) if "model" in sample.labels]
    versions = {(sample.labels["model"], sample.labels["version"]) for sample in samples}
    assert (KIND, "1") in versions
    return {
        (sample.name, *filter(None, [sample.labels.get("result")])): sample.value
        for sample in samples
        if sample.labels["model"] == KIND
    }


def generate(channel: grpc.Channel, prompt: str, characters: int = 1) -> Iterator[generation_pb2.GenerateResponse]:
    request = generation_pb2.GenerateRequest(
        model=common_pb2.ModelReference(name=KIND), prompt=prompt, max_characters=characters
    )
    return generation_pb2_grpc.GenerationServiceStub(channel).Generate(request)


def test_hits_are_counted_and_what_they_spared(measured: tuple[str, grpc.Channel]) -> None:
    url, channel = measured
    before = figures(url)
    for _ in range(3):
        list(generate(channel, PROMPT))
    after = figures(url)
    assert {name: after[name] - before[name] for name in after if name[0].endswith("_total")} == {
        ("segue_prefix_cache_prompts_total", "hit"): 2,
        ("segue_prefix_cache_prompts_total", "miss"): 1,
        ("segue_prefix_cache_symbols_saved_total",): 2 * len(PROMPT),
    }
    request = model_pb2.GetModelRequest(model=common_pb2.ModelReference(name=KIND))
    told = model_pb2_grpc.ModelServiceStub(channel).GetModel(request).model.prefix_cache
    assert (after["segue_prefix_cache_states",], after["segue_prefix_cache_bytes",]) == (told.states, told.bytes)
    assert told.states > 0


def test_a_stream_counts_as_long_as_it_lives(measured: tuple[str, grpc.Channel]) -> None:
    url, channel = measured
    stream = generate(channel, "the", characters=1_000_000)
    next(stream)
    assert figures(url)["segue_live_sequences",] == 1
    stream.cancel()  # type: ignore[attr-defined]
    while figures(url)["segue_live_sequences",]:
        pass


def test_a_port_in_use_stops_the_start_and_is_named(models_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "segue_client", "serve", str(models_folder), "--port", "0"]
        command += ["--device", "cpu", "--state", str(tmp_path), "--metrics-port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert f"cannot serve metrics on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def writing(channel: grpc.Channel, request: generation_pb2.GenerateRequest) -> Iterator[None]:
    """Have a call under way that has read its prompt, for the length of the block."""
    call = generation_pb2_grpc.GenerationServiceStub(channel).Generate(request)
    assert any(response.text.text for response in call)
    yield
    call.cancel()


def test_what_is_kept_of_a_prompt_and_for_a_session_is_charged_to_the_end(measured: tuple[str, grpc.Channel]) -> None:
    url, channel = measured
    model, many = common_pb2.ModelReference(name=KIND), 900_000  # symbols, of a byte each
    session = session_pb2_grpc.SessionServiceStub(channel).OpenSession(session_pb2.OpenSessionRequest(model=model))
    long_prompt = generation_pb2.GenerateRequest(model=model, prompt="the cat " * (many // 8), max_characters=10**6)
    into_session = generation_pb2.GenerateRequest(
        model=model,
        start=common_pb2.Start(session=common_pb2.SessionReference(name=session.session.name)),
        max_characters=many,
    )
    assert taken(url) < SMALL
    for request in (long_prompt, into_session):
        with writing(channel, request):
            assert taken(url) >= many
        give_up = time.monotonic() + 20
        while taken(url) >= SMALL:
            assert time.monotonic() < give_up
            time.sleep(0.02)
