import numpy as np
import torch
from charlm_training.models import Lstm, ModelConfig
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def by_hand(model: Lstm, ids: list[int], h: Array, c: Array) -> Array:
    """The logits of one text by the equations of d2l, gate by gate, in double precision; h, c: [L, H]."""
    p = {name: weight.numpy().astype(np.float64) for name, weight in model.state_dict().items()}
    logits = []
    for token in ids:
        x = p["embedding.weight"][token]
        for k in range(len(h)):
            w_x, w_h = (np.split(p[f"lstm.weight_{end}_l{k}"], 4) for end in ("ih", "hh"))
            b = np.split(p[f"lstm.bias_ih_l{k}"] + p[f"lstm.bias_hh_l{k}"], 4)
            i, f, g, o = (w_x[gate] @ x + w_h[gate] @ h[k] + b[gate] for gate in range(4))
            c[k] = sigmoid(f) * c[k] + sigmoid(i) * np.tanh(g)
            h[k] = x = sigmoid(o) * np.tanh(c[k])
        logits.append(p["output.weight"] @ x + p["output.bias"])
    return np.stack(logits)


def test_the_model_computes_the_equations_of_d2l(model: Lstm) -> None:
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
    model = Lstm(ModelConfig(vocabulary_size=11, embedding=5, hidden=7, layers=2))
    assert {name: tuple(weight.shape) for name, weight in model.state_dict().items()} == {
        "embedding.weight": (11, 5),
        "lstm.weight_ih_l0": (28, 5),
        "lstm.weight_hh_l0": (28, 7),
        "lstm.bias_ih_l0": (28,),
        "lstm.bias_hh_l0": (28,),
        "lstm.weight_ih_l1": (28, 7),
        "lstm.weight_hh_l1": (28, 7),
        "lstm.bias_ih_l1": (28,),
        "lstm.bias_hh_l1": (28,),
        "output.weight": (11, 7),
        "output.bias": (11,),
    }


def test_dropout_acts_in_training_alone() -> None:
    model = Lstm(ModelConfig(vocabulary_size=11, embedding=5, hidden=7, layers=2), dropout=0.5)
    ids, state = torch.randint(11, (2, 9)), model.zero_state(2)
    with torch.no_grad():
        assert not torch.equal(model.train()(ids, *state)[0], model(ids, *state)[0])
        assert torch.equal(model.eval()(ids, *state)[0], model(ids, *state)[0])


def test_the_forget_gates_alone_get_the_bias(model: Lstm) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.set_forget_bias(1.0)
    for name, weight in model.state_dict().items():
        if "bias_ih" in name or "bias_hh" in name:
            assert weight[7:14].tolist() == [1.0 if "ih" in name else 0.0] * 7
            weight[7:14] = before[name][7:14]
        assert torch.equal(weight, before[name])
