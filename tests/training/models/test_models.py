import math

import pytest
import torch
from segue_training.errors import ConfigurationError
from segue_training.models import (
    Dropout,
    LanguageModel,
    Mlp,
    ModelConfig,
    Recurrent,
    Scratch,
    build_model,
    initialize,
    to_checkpoint,
)

ARCHITECTURES = ("rnn", "gru", "gru-reset-before", "lstm", "mlp")
IMPLEMENTATIONS = ("fused", "scratch")


def shape(architecture: str, layers: int = 2) -> ModelConfig:
    return ModelConfig(11, 5, 7, layers, architecture, window=3)


@pytest.mark.parametrize(
    ("architecture", "fused", "scratch"),
    [
        ("rnn", Recurrent, Scratch),
        ("gru", Recurrent, Scratch),
        ("gru-reset-before", Scratch, Scratch),
        ("lstm", Recurrent, Scratch),
        ("mlp", Mlp, Mlp),
    ],
)
def test_each_architecture_has_its_class(architecture: str, fused: type, scratch: type) -> None:
    assert type(build_model(shape(architecture))) is fused
    assert type(build_model(shape(architecture), implementation="scratch")) is scratch


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_model_is_read_in_one_way(architecture: str, implementation: str) -> None:
    model = build_model(shape(architecture), implementation=implementation)
    ids, state = torch.randint(11, (4, 6)), model.zero_state(4)
    logits, *after = model(ids, *state)
    assert logits.shape == (4, 6, 11)
    assert [part.shape for part in after] == [part.shape for part in state]
    assert all(part.shape[1] == 4 for part in state)
    assert not any(part.any() for part in state)
    alone, *_ = model(ids[2:3], *model.zero_state())
    torch.testing.assert_close(alone[0], logits[2])


@pytest.mark.parametrize("rate", ["input", "between", "output", "weight"])
@pytest.mark.parametrize(
    ("architecture", "implementation"), [("lstm", "scratch"), ("gru-reset-before", "fused"), ("rnn", "scratch")]
)
def test_dropout_from_scratch_is_refused(architecture: str, implementation: str, rate: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{rate}=0\.1.* set every rate to 0") as error:
        build_model(shape(architecture), Dropout(**{rate: 0.1}), implementation)
    assert "\n" not in str(error.value)
    build_model(shape(architecture), Dropout(), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_normal_weights_are_small_and_their_biases_zero(architecture: str, implementation: str) -> None:
    model = build_model(ModelConfig(28, 28, 64, 2, architecture), implementation=implementation)
    torch.manual_seed(0)
    initialize(model, "normal", forget_bias=0.0)
    for name, weight in to_checkpoint(model).items():
        if weight.dim() == 1:
            assert not weight.any(), name
        else:
            assert weight.std().item() == pytest.approx(0.01, rel=0.1), name
            assert abs(weight.mean().item()) < 4 * 0.01 / math.sqrt(weight.numel()), name


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("how", ["pytorch", "normal"])
def test_the_forget_bias_is_that_of_every_lstm_layer_and_of_nothing_else(how: str, implementation: str) -> None:
    def biases(model: LanguageModel) -> list[torch.Tensor]:
        weights = to_checkpoint(model)
        return [weights[f"recurrent.bias_ih_l{k}"] + weights[f"recurrent.bias_hh_l{k}"] for k in range(2)]

    torch.manual_seed(0)
    model = build_model(shape("lstm"), implementation=implementation)
    if how == "normal":
        initialize(model, how, forget_bias=0.0)
    before = biases(model)
    initialize(model, how, forget_bias=1.5)
    for bias_GH, was_GH in zip(biases(model), before, strict=True):
        assert bias_GH[7:14].tolist() == [1.5] * 7
        assert torch.equal(bias_GH[:7], was_GH[:7])
        assert torch.equal(bias_GH[14:], was_GH[14:])


@pytest.mark.parametrize("architecture", ["gru", "rnn", "mlp"])
def test_without_a_forget_gate_pytorchs_weights_stay(architecture: str) -> None:
    model = build_model(shape(architecture))
    before = to_checkpoint(model)
    initialize(model, "pytorch", forget_bias=1.0)
    assert all(torch.equal(weight, before[name]) for name, weight in to_checkpoint(model).items())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("how", ["pytorch", "normal"])
def test_one_hot_symbols_are_not_trained(how: str, implementation: str) -> None:
    model = build_model(ModelConfig(6, 6, 7, 1, "gru"), implementation=implementation)
    initialize(model, how, forget_bias=0.0, one_hot=True)
    assert torch.equal(model.get_parameter("embedding.weight"), torch.eye(6))
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["embedding.weight"]


@pytest.mark.parametrize(("architecture", "parameters"), [("rnn", 80_156), ("gru-reset-before", 226_076)])
def test_the_models_from_scratch_have_as_many_weights_as_d2ls(architecture: str, parameters: int) -> None:
    model = build_model(ModelConfig(28, 28, 256, 1, architecture), implementation="scratch")
    initialize(model, "normal", forget_bias=0.0, one_hot=True)
    assert sum(weight.numel() for weight in model.parameters() if weight.requires_grad) == parameters
