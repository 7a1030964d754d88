import numpy as np
import pytest
import torch
from segue_training.errors import ConfigurationError
from segue_training.models import Dropout, Mlp, ModelConfig, initialize
from torch.nn.functional import cross_entropy


def mlp(window: int, layers: int = 1, dropout: Dropout | None = None) -> Mlp:
    """Seven units, with weights large enough that every input matters."""
    torch.manual_seed(window)
    model = Mlp(ModelConfig(11, embedding=5, hidden=7, layers=layers, architecture="mlp", window=window), dropout)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    return model.eval()


@pytest.mark.parametrize(("window", "layers"), [(1, 1), (2, 1), (5, 2)])
def test_it_computes_the_equations_of_d2l(window: int, layers: int) -> None:
    model = mlp(window, layers)
    ids = torch.randint(11, (12,)).tolist()
    with torch.no_grad():
        found, _ = model(torch.tensor([ids]), *model.zero_state())
    p = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    unread = [np.zeros(5)] * (window - 1)
    for t in range(len(ids)):
        h = np.concatenate([*unread, *p["embedding.weight"][ids]][t : t + window])
        for k in range(layers):
            h = np.tanh(p[f"hidden.{k}.weight"] @ h + p[f"hidden.{k}.bias"])
        np.testing.assert_allclose(found[0, t], p["output.weight"] @ h + p["output.bias"], atol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_symbol_reaches_as_many_predictions_as_the_window_is_wide(window: int) -> None:
    model = mlp(window)
    ids = torch.randint(11, (1, 20))
    changed = ids.clone()
    changed[0, 6] = (ids[0, 6] + 1) % 11
    with torch.no_grad():
        before, after = (model(each, *model.zero_state())[0][0] for each in (ids, changed))
    differs = (before != after).any(dim=-1)
    assert differs.nonzero().flatten().tolist() == list(range(6, 6 + window))


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_text_read_in_parts_is_read_as_the_whole(window: int) -> None:
    model = mlp(window, layers=2)
    ids = torch.randint(11, (3, 20))
    with torch.no_grad():
        whole, *end = model(ids, *model.zero_state(3))
        parts, state = [], model.zero_state(3)
        for part in ids.split([1, 2, 10, 7], dim=1):
            logits, *state = model(part, *state)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    assert torch.equal(state[0], end[0])
    assert state[0].shape == (window - 1, 3, 5)


def test_with_one_hot_symbols_the_first_layer_adds_up_rows_of_its_weights() -> None:
    torch.manual_seed(1)
    model = Mlp(ModelConfig(4, embedding=4, hidden=7, layers=1, architecture="mlp", window=2))
    initialize(model, "pytorch", 0.0, one_hot=True)
    with torch.no_grad():
        logits, _ = model(torch.tensor([[3, 1]]), *model.zero_state())
        layer = model.hidden[0]
        h = torch.tanh(layer.weight[:, 3] + layer.weight[:, 4 + 1] + layer.bias)
        torch.testing.assert_close(logits[0, 1], model.output(h))


@pytest.mark.parametrize(("window", "learnt"), [(1, False), (2, True)])
def test_it_learns_what_its_window_holds_and_no_more(window: int, learnt: bool) -> None:
    text = torch.tensor([1, 1, 2] * 20)  # what follows 1 depends on what precedes it
    model = mlp(window).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(100):
        logits, _ = model(text[None, :-1], *model.zero_state())
        loss = cross_entropy(logits[0], text[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if learnt:
        assert loss < 0.1
    else:
        assert loss > 2 / 3 * np.log(2) - 0.05  # two of three predictions are a coin toss


def test_dropout_acts_in_training_alone() -> None:
    ids = torch.randint(11, (2, 9))
    for dropout in (Dropout(input=0.5), Dropout(between=0.5), Dropout(output=0.5)):
        model = mlp(3, 2, dropout)
        state = model.zero_state(2)
        with torch.no_grad():
            assert not torch.equal(model.train()(ids, *state)[0], model(ids, *state)[0])
            assert torch.equal(model.eval()(ids, *state)[0], model(ids, *state)[0])


def test_the_past_of_the_window_is_kept_whole_while_inputs_are_dropped() -> None:
    model = mlp(3, dropout=Dropout(input=0.9)).train()
    ids = torch.tensor([[4, 9, 2]])
    _, past = model(ids, *model.zero_state())
    assert torch.equal(past[:, 0], model.embedding.weight[[9, 2]])


def test_weight_dropout_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"weight dropout is 0\.2; .* use 0"):
        mlp(3, dropout=Dropout(weight=0.2))
