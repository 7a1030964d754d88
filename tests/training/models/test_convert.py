import pytest
import torch
from segue_training.models import LanguageModel, ModelConfig, Recurrent, build_model, from_checkpoint, to_checkpoint

RECURRENT = ("rnn", "gru", "gru-reset-before", "lstm")


def model_of(architecture: str, implementation: str, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return build_model(ModelConfig(11, 5, 7, 2, architecture), implementation=implementation)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("implementation", ["fused", "scratch"])
@pytest.mark.parametrize("architecture", [*RECURRENT, "mlp"])
def test_every_model_comes_back_from_its_checkpoint_bit_for_bit(architecture: str, implementation: str) -> None:
    model, other = (model_of(architecture, implementation, seed) for seed in (0, 1))
    from_checkpoint(other, to_checkpoint(model))
    assert same(dict(other.state_dict()), dict(model.state_dict()))
    assert same(to_checkpoint(other), to_checkpoint(model))


@pytest.mark.parametrize("architecture", RECURRENT)
def test_a_checkpoint_has_the_layout_of_the_fused_layers(architecture: str) -> None:
    fused = Recurrent(ModelConfig(11, 5, 7, 2, architecture.removesuffix("-reset-before")))
    expected = {name: tensor.shape for name, tensor in fused.state_dict().items()}
    weights = to_checkpoint(model_of(architecture, "scratch"))
    assert {name: tensor.shape for name, tensor in weights.items()} == expected
    assert all(tensor.is_contiguous() for tensor in weights.values())


@pytest.mark.parametrize("architecture", ["rnn", "gru", "lstm"])
def test_either_implementation_continues_from_the_others_checkpoint(architecture: str) -> None:
    scratch, fused = model_of(architecture, "scratch"), model_of(architecture, "fused", seed=1)
    from_checkpoint(fused, to_checkpoint(scratch))
    ids = torch.randint(11, (2, 9))
    for ours, theirs in zip(scratch(ids, *scratch.zero_state(2)), fused(ids, *fused.zero_state(2)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_both_biases_of_a_checkpoint_count() -> None:
    model = model_of("gru-reset-before", "scratch")
    weights = to_checkpoint(model)
    half = {name: tensor / 2 for name, tensor in weights.items() if "bias_ih" in name}
    other = model_of("gru-reset-before", "scratch", seed=1)
    from_checkpoint(other, weights | half | {name.replace("_ih", "_hh"): tensor for name, tensor in half.items()})
    assert same(dict(other.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("implementation", ["fused", "scratch"])
def test_a_checkpoint_does_not_change_when_training_goes_on(implementation: str) -> None:
    model = model_of("lstm", implementation)
    weights = to_checkpoint(model)
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert same(weights, kept)
