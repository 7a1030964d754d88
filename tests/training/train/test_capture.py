"""The path of a CUDA graph (buffers, copies, a recording, replays) with a stand-in that needs no GPU."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from segue_training.errors import ConfigurationError
from segue_training.recipes import TrainingConfig
from segue_training.text.vocabulary import Vocabulary
from segue_training.train import gradients
from segue_training.train.capture import WARM_UP, Captured, CaptureError, Tensors
from segue_training.train.distributed import ProcessGroup
from segue_training.train.trainer import Pace, Progress, Trainer, TrainingData

CPU = torch.device("cpu")


class StandIn:
    """Does at a replay what was recorded, and leaves the outputs in one place.

    Recording must run the function to learn the shapes; like a real graph it draws nothing from the generator and
    computes nothing: what is read before a replay is NaN.
    """

    def __init__(self) -> None:
        self.warmed = self.recorded = self.replayed = 0
        self._run: Callable[[], Tensors] | None = None
        self._outputs: Tensors = ()

    def warm_up(self, run: Callable[[], Tensors]) -> Tensors:
        self.warmed += 1
        return run()

    def record(self, run: Callable[[], Tensors]) -> Tensors:
        self.recorded += 1
        self._run = run
        with torch.random.fork_rng():
            self._outputs = tuple(torch.full_like(each, math.nan) for each in run())
        return self._outputs

    def replay(self) -> None:
        self.replayed += 1
        assert self._run is not None
        for place, each in zip(self._outputs, self._run(), strict=True):
            place.copy_(each)


class Broken(StandIn):
    def record(self, _: Callable[[], Tensors]) -> Tensors:
        raise CaptureError("operation not permitted when stream is capturing")


def refused(error: CaptureError) -> None:
    raise AssertionError(error)


@pytest.fixture
def data(text: str) -> TrainingData:
    vocabulary = Vocabulary.from_text(text)
    ids = vocabulary.encode(text).astype(np.uint8)
    return TrainingData(ids[:5400], ids[5400:], len(vocabulary), int(vocabulary.encode("\n")[0]))


def test_a_recorded_function_reads_each_calls_inputs() -> None:
    graph = StandIn()
    captured = Captured(lambda a, b: (a + b, a * b), graph, CPU, refused)
    for k in range(10):
        a, b = torch.full((3,), float(k)), torch.arange(3.0)
        total, product = captured((a, b))
        assert torch.equal(total, a + b)
        assert torch.equal(product, a * b)
    assert (graph.warmed, graph.recorded, graph.replayed) == (WARM_UP, 1, 10 - WARM_UP)


def test_outputs_may_be_the_next_inputs() -> None:
    """As the recurrent state is."""
    captured = Captured(lambda a: (a + 1,), StandIn(), CPU, refused)
    state = torch.zeros(2)
    for _ in range(8):
        (state,) = captured((state,))
    assert torch.equal(state, torch.full((2,), 8.0))


def test_a_replay_draws_from_the_seed_of_its_call() -> None:
    captured = Captured(lambda a: (a + torch.rand(3),), StandIn(), CPU, refused)
    with torch.random.fork_rng():
        for seed in (*range(6), 0):
            torch.manual_seed(seed)
            (found,) = captured((torch.zeros(3),))
            torch.manual_seed(seed)
            assert torch.equal(found, torch.rand(3))


def test_what_cannot_be_recorded_is_said_once_and_goes_on() -> None:
    said: list[str] = []
    captured = Captured(lambda a: (a * 2,), Broken(), CPU, lambda error: said.append(str(error)))
    for k in range(8):
        assert torch.equal(captured((torch.tensor(k),))[0], torch.tensor(2 * k))
    assert said == ["operation not permitted when stream is capturing"]


def run(data: TrainingData, config: TrainingConfig, **options: object) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the losses, and the weights after the last step."""
    reports: list[Progress] = []
    trainer = Trainer(data, config, **options)  # type: ignore[arg-type]
    trainer.train(reports.append, lambda _: None)
    return [report.loss for report in reports], trainer.model.state_dict()


VARIANTS = {
    "scratch": {"implementation": "scratch"},
    "scratch-bfloat16": {"implementation": "scratch", "precision": "bfloat16"},
    "scratch-float16": {"implementation": "scratch", "precision": "float16"},
    "scratch-sgd": {"implementation": "scratch", "optimizer": "sgd", "learning_rate": 1.0},
    "gru-one-hot": {"implementation": "scratch", "architecture": "gru-reset-before", "embedding": 0},
    "fused-dropout": {"layers": 2, "weight_dropout": 0.3, "layer_dropout": 0.2, "output_dropout": 0.1},
    "mlp": {"architecture": "mlp", "output_dropout": 0.1},
}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """The graphs of the trainers that the test makes."""
    made: list[StandIn] = []

    def make(*_: object) -> StandIn:
        made.append(StandIn())
        return made[-1]

    monkeypatch.setattr(gradients, "graph_for", make)
    return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_captured_run_has_the_bits_of_an_eager_one(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    """Over an epoch's end, whose last window is narrower and runs without the graph."""
    config = replace(tiny, **VARIANTS[variant], steps=90, reset_rate=0.2, unknown_rate=0.1)  # type: ignore[arg-type]
    losses, weights = run(data, config)
    graph = StandIn()
    monkeypatch.setattr(gradients, "graph_for", lambda *_: graph)
    for pace in (Pace(), Pace(ahead=3, losses=7)):
        found, others = run(data, config, pace=pace)
        assert found == losses
        for name, weight in weights.items():
            assert torch.equal(others[name], weight), name
        assert graph.recorded == 1
        assert 80 < WARM_UP + graph.replayed < 90
        graph.__init__()  # type: ignore[misc]


def test_a_run_whose_step_cannot_be_recorded_says_so_and_has_the_same_bits(
    data: TrainingData, tiny: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, said = replace(tiny, implementation="scratch", steps=12), list[str]()
    losses, _ = run(data, config)
    monkeypatch.setattr(gradients, "graph_for", lambda *_: Broken())
    found, _ = run(data, config, say=said.append)
    assert found == losses
    assert said == ["training without a CUDA graph: operation not permitted when stream is capturing"]


def test_documents_are_too_different_in_length_to_be_recorded(
    data: TrainingData, tiny: TrainingConfig, graphs: list[StandIn]
) -> None:
    """graph_for refuses them; if it did not, no window but a full one would go through the graph."""
    config = replace(tiny, documents="lines", implementation="scratch")
    found, _ = run(data, config)
    assert graphs[0].warmed + graphs[0].replayed < len(found)


def test_a_graph_is_refused_where_it_was_demanded_in_vain(data: TrainingData, tiny: TrainingConfig) -> None:
    with pytest.raises(ConfigurationError, match="'yes', which needs a GPU: set capture=auto or capture=no"):
        Trainer(data, replace(tiny, capture="yes"))


@pytest.mark.parametrize(
    ("changes", "group", "reason"),
    [
        ({}, ProcessGroup(0, 2, torch.device("cuda")), "is for one process, not 2"),
        ({"architecture": "gru-reset-before"}, ProcessGroup(0, 2, torch.device("cuda")), "is for one process, not 2"),
        ({"compile": "yes"}, ProcessGroup(device=torch.device("cuda")), "does not go with compile=yes"),
        ({"documents": "lines"}, ProcessGroup(device=torch.device("cuda")), "needs windows of one size"),
    ],
)
def test_a_run_says_why_it_does_without_a_graph(
    tiny: TrainingConfig, changes: dict[str, str], group: ProcessGroup, reason: str
) -> None:
    said: list[str] = []
    config = replace(tiny, implementation="scratch", **changes)  # type: ignore[arg-type]
    assert gradients.graph_for(config, group, said.append) is None
    assert len(said) == 1
    assert said[0].startswith(f"training without a CUDA graph: it {reason}")


@pytest.mark.parametrize(("capture", "device"), [("no", "cuda"), ("no", "cpu"), ("auto", "cpu")])
@pytest.mark.parametrize("implementation", ["fused", "scratch"])
def test_nothing_is_said_where_no_graph_is_wanted(
    tiny: TrainingConfig, capture: Literal["no", "auto"], device: str, implementation: Literal["fused", "scratch"]
) -> None:
    said: list[str] = []
    config = replace(tiny, capture=capture, implementation=implementation)
    assert gradients.graph_for(config, ProcessGroup(device=torch.device(device)), said.append) is None
    assert said == []


@pytest.mark.parametrize("implementation", ["fused", "scratch"])
def test_on_its_own_a_run_on_a_gpu_captures(
    tiny: TrainingConfig, implementation: Literal["fused", "scratch"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "CudaGraph", lambda: "a graph")
    config = replace(tiny, implementation=implementation, weight_dropout=0.1)
    assert gradients.graph_for(config, ProcessGroup(device=torch.device("cuda")), lambda _: None) == "a graph"
