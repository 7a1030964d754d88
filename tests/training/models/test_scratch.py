import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from segue_training.models import LanguageModel, ModelConfig, Recurrent, Scratch, from_checkpoint, to_checkpoint
from segue_training.models.convert import scratch_weights
from segue_training.models.scratch import GruLayer, GruResetAfterLayer, Layer, LstmLayer, RnnLayer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

FUSED = ("rnn", "gru", "lstm")
RECURRENT = (*FUSED, "gru-reset-before")


def lively(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Give `model` weights large enough that every gate matters."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.to(dtype).parameters():
            weight.normal_(std=0.5)
    return model


def reading(model: LanguageModel) -> tuple[Tensor, ...]:
    """A text of three rows, and an initial state in the range of tanh."""
    dtype = next(model.parameters()).dtype
    return torch.randint(11, (3, 9)), *(torch.rand_like(part, dtype=dtype) for part in model.zero_state(3))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("architecture", FUSED)
def test_scratch_and_fused_are_one_function_with_one_gradient(architecture: str, layers: int) -> None:
    fused = lively(Recurrent(ModelConfig(11, 5, 7, layers, architecture)))
    scratch = Scratch(fused.config)
    weights = dict(fused.named_parameters())
    ids, *state = reading(fused)
    for part in state:
        part.requires_grad = True

    def outputs_and_gradients(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        loss = cross_entropy(outputs[0].flatten(0, 1), ids.flatten()) + sum(part.square().sum() for part in outputs[1:])
        return *outputs, *torch.autograd.grad(loss, [*weights.values(), *state])

    found = outputs_and_gradients(functional_call(scratch, scratch_weights(fused.config, weights), (ids, *state)))
    expected = outputs_and_gradients(fused(ids, *state))
    assert len(found) == 1 + len(state) + len(weights) + len(state)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("architecture", FUSED)
def test_in_float32_they_differ_by_rounding(architecture: str) -> None:
    fused = lively(Recurrent(ModelConfig(11, 5, 7, 2, architecture)), torch.float32)
    scratch = Scratch(fused.config)
    from_checkpoint(scratch, to_checkpoint(fused))
    text = reading(fused)
    for ours, theirs in zip(scratch(*text), fused(*text), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_one_product_of_what_stands_side_by_side_is_the_sum_of_two() -> None:
    """d2l: X W_xh + H W_hh == [X, H] [W_xh; W_hh], with d2l's shapes."""
    torch.manual_seed(0)
    X, W_xh, H, W_hh = (torch.randn(shape, dtype=torch.float64) for shape in ((3, 1), (1, 4), (3, 4), (4, 4)))
    two = X @ W_xh + H @ W_hh
    one = torch.cat([X, H], dim=1) @ torch.cat([W_xh, W_hh], dim=0)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    layer = RnnLayer(1, 4).double()
    layer.load_state_dict({"W_xh": W_xh, "W_hh": W_hh, "b_h": torch.zeros(4)})
    torch.testing.assert_close(layer.step(X, H)[0], one.tanh(), rtol=0, atol=1e-12)


def one_unit(layer: Layer, **weights: float) -> Layer:
    """A layer of one unit with one input; weights not given are 0."""
    for name, parameter in layer.double().named_parameters():
        nn.init.constant_(parameter, weights.pop(name, 0.0))
    assert not weights
    return layer


@torch.no_grad()
def step(layer: Layer, x: float, *state: float) -> list[float]:
    parts = (torch.tensor([[value]], dtype=torch.float64) for value in (x, *state))
    return [float(part) for part in layer.step(*parts)]


def test_an_rnn_by_hand() -> None:
    layer = one_unit(RnnLayer(1, 1), W_xh=2, W_hh=-1, b_h=0.5)
    assert step(layer, 1.0, 0.5) == pytest.approx([0.9640276])  # tanh(2)


# R = sigmoid(0) = 1/2, Z = sigmoid(ln 3) = 3/4, H = 3/4 * 1/2 + 1/4 * H~.
GRU = {"b_z": np.log(3), "W_xh": 1, "W_hh": 2, "b_h": 0.25}


def test_a_gru_that_resets_before_the_product_by_hand() -> None:
    layer = one_unit(GruLayer(1, 1), **GRU)
    assert step(layer, 1.0, 0.5) == pytest.approx([0.375 + 0.25 * np.tanh(1 + (0.5 * 0.5) * 2 + 0.25)])


def test_a_gru_that_resets_after_the_product_by_hand() -> None:
    layer = one_unit(GruResetAfterLayer(1, 1), **GRU, b_hh=1)
    assert step(layer, 1.0, 0.5) == pytest.approx([0.375 + 0.25 * np.tanh(1 + 0.25 + 0.5 * (0.5 * 2 + 1))])


def test_an_lstm_by_hand() -> None:
    # F = sigmoid(ln 3) = 3/4, I = sigmoid(0) = 1/2, O = sigmoid(-ln 3) = 1/4, C~ = tanh(2).
    layer = one_unit(LstmLayer(1, 1), W_xf=np.log(3), W_xo=-np.log(3), W_xc=1.5, W_hc=1)
    cell = 0.75 * 0.8 + 0.5 * 0.9640276
    assert step(layer, 1.0, 0.5, 0.8) == pytest.approx([0.25 * np.tanh(cell), cell])


@pytest.mark.parametrize(
    ("layer", "linear_before_reset"), [(GruLayer, 0), (GruResetAfterLayer, 1)], ids=["before", "after"]
)
def test_both_grus_are_those_of_onnx(layer: type[GruLayer], linear_before_reset: int) -> None:
    gru = lively(layer(5, 7), torch.float32)
    x, h = torch.randn(9, 3, 5), torch.rand(3, 7)
    with torch.no_grad():
        found, _ = gru(x, h)
        p = {name: weight.numpy() for name, weight in gru.named_parameters()}
    W, R = (np.concatenate([p[f"W_{end}{gate}"].T for gate in "zrh"])[np.newaxis] for end in "xh")
    second = [np.zeros(7), np.zeros(7), p.get("b_hh", np.zeros(7))]
    b = np.concatenate([p["b_z"], p["b_r"], p["b_h"], *second])[np.newaxis].astype(np.float32)
    feeds = {"X": x.numpy(), "W": W, "R": R, "B": b, "h": h.numpy()[np.newaxis]}
    node = helper.make_node(
        "GRU", ["X", "W", "R", "B", "", "h"], ["Y"], hidden_size=7, linear_before_reset=linear_before_reset
    )
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()]
    outputs = [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [9, 1, 3, 7])]
    graph = helper.make_graph([node], "gru", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-6)


@pytest.mark.parametrize("architecture", RECURRENT)
def test_a_text_read_in_parts_is_read_as_the_whole(architecture: str) -> None:
    model = lively(Scratch(ModelConfig(11, 5, 7, 2, architecture)))
    ids, *state = reading(model)
    whole, *end = model(ids, *state)
    parts = []
    for part in ids.split([1, 5, 3], dim=1):
        logits, *state = model(part, *state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    for ours, theirs in zip(state, end, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_lstm_is_twelve_tensors_for_its_gates_and_two_for_its_output() -> None:
    model = Scratch(ModelConfig(28, 28, 256, 1, "lstm"))
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters() if name != "embedding.weight"}
    gates = {f"W_x{g}": (28, 256) for g in "ifoc"} | {f"W_h{g}": (256, 256) for g in "ifoc"}
    gates |= {f"b_{g}": (256,) for g in "ifoc"}
    assert shapes == {f"layers.0.{name}": shape for name, shape in gates.items()} | {"W_hq": (256, 28), "b_q": (28,)}
    assert sum(np.prod(shape) for shape in shapes.values()) == 299_036  # d2l's
