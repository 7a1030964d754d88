import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segue_training.models import Dropout, LanguageModel, ModelConfig, Recurrent
from segue_training.models.language_model import dropped

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def by_hand(model: LanguageModel, ids: list[int], h: Array, c: Array) -> Array:
    """The logits of a text by d2l's equations, gate by gate, in double precision; h, c: [L, H]."""
    p = {name: weight.numpy().astype(np.float64) for name, weight in model.state_dict().items()}
    logits = []
    for token in ids:
        x = p["embedding.weight"][token]
        for k in range(len(h)):
            w_x, w_h = (np.split(p[f"recurrent.weight_{end}_l{k}"], 4) for end in ("ih", "hh"))
            b = np.split(p[f"recurrent.bias_ih_l{k}"] + p[f"recurrent.bias_hh_l{k}"], 4)
            i, f, g, o = (w_x[gate] @ x + w_h[gate] @ h[k] + b[gate] for gate in range(4))
            c[k] = sigmoid(f) * c[k] + sigmoid(i) * np.tanh(g)
            h[k] = x = sigmoid(o) * np.tanh(c[k])
        logits.append(p["output.weight"] @ x + p["output.bias"])
    return np.stack(logits)


def test_the_model_computes_the_equations_of_d2l(model: LanguageModel) -> None:
    torch.manual_seed(5)
    ids, h, c = torch.randint(11, (3, 20)), torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    with torch.no_grad():
        logits, h_out, c_out = model(ids, h, c)
    for row in range(3):
        h_row, c_row = h[:, row].double().numpy(), c[:, row].double().numpy()
        np.testing.assert_allclose(logits[row], by_hand(model, ids[row].tolist(), h_row, c_row), atol=1e-5)
        np.testing.assert_allclose(h_out[:, row], h_row, atol=1e-5)
        np.testing.assert_allclose(c_out[:, row], c_row, atol=1e-5)


def test_the_names_and_shapes_are_those_that_export_reads() -> None:
    model = Recurrent(ModelConfig(vocabulary_size=11, embedding=5, hidden=7, layers=2))
    assert {name: tuple(weight.shape) for name, weight in model.state_dict().items()} == {
        "embedding.weight": (11, 5),
        "recurrent.weight_ih_l0": (28, 5),
        "recurrent.weight_hh_l0": (28, 7),
        "recurrent.bias_ih_l0": (28,),
        "recurrent.bias_hh_l0": (28,),
        "recurrent.weight_ih_l1": (28, 7),
        "recurrent.weight_hh_l1": (28, 7),
        "recurrent.bias_ih_l1": (28,),
        "recurrent.bias_hh_l1": (28,),
        "output.weight": (11, 7),
        "output.bias": (11,),
    }


ARCHITECTURES = ("lstm", "gru", "rnn")
DROPOUTS = (Dropout(input=0.5), Dropout(between=0.5), Dropout(output=0.5), Dropout(weight=0.5))


def lively(architecture: str, dropout: Dropout | None = None) -> Recurrent:
    torch.manual_seed(3)
    model = Recurrent(ModelConfig(11, 5, 7, layers=2, architecture=architecture), dropout)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layer_by_layer_it_computes_what_pytorchs_own_stack_does(architecture: str) -> None:
    model = lively(architecture)
    ids, state = torch.randint(11, (3, 9)), tuple(map(torch.randn_like, model.zero_state(3)))
    y_BTH, end = model.recurrent(model.embedding(ids), state if architecture == "lstm" else state[0])
    logits, *after = model(ids, *state)
    torch.testing.assert_close(logits, model.output(y_BTH))
    for ours, theirs in zip(after, end if architecture == "lstm" else (end,), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dropout", DROPOUTS, ids=str)
def test_dropout_acts_in_training_alone(architecture: str, dropout: Dropout) -> None:
    model = lively(architecture, dropout)
    ids, state = torch.randint(11, (2, 9)), model.zero_state(2)
    with torch.no_grad():
        plain = lively(architecture).eval()(ids, *state)[0]
        assert not torch.equal(model.train()(ids, *state)[0], plain)
        assert torch.equal(model.eval()(ids, *state)[0], plain)


def test_a_unit_is_dropped_for_the_whole_time_and_in_each_row_by_itself() -> None:
    torch.manual_seed(0)
    x = dropped(torch.ones(64, 9, 5), 0.5, training=True)
    assert set(x.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(x, x[:, :1].expand_as(x))
    assert len(x[:, 0].unique(dim=0)) > 8


def test_dropout_keeps_the_mean() -> None:
    model = lively("rnn", Dropout(output=0.25)).train()
    ids, state = torch.zeros(20_000, 1, dtype=torch.int64), model.zero_state(20_000)
    with torch.no_grad():
        mean = model(ids, *state)[0].mean(dim=0)[0]
        plain = model.eval()(ids[:1], *model.zero_state())[0][0, 0]
    torch.testing.assert_close(mean, plain, rtol=0, atol=0.03)


def test_the_forget_gates_alone_get_the_bias(model: LanguageModel) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.set_forget_bias(1.0)
    for name, weight in model.state_dict().items():
        if "bias_ih" in name or "bias_hh" in name:
            assert weight[7:14].tolist() == [1.0 if "ih" in name else 0.0] * 7
            weight[7:14] = before[name][7:14]
        assert torch.equal(weight, before[name])
