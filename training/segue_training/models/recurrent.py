"""Recurrent language models on PyTorch's fused layers: LSTM, GRU and RNN.

With x_t the embedded character, for every layer of an LSTM (Hochreiter and Schmidhuber 1997, with the forget
gate of Gers et al. 2000; d2l, chapter "Long Short-Term Memory"):

    i = sigmoid(W_ii x + W_hi h + b_i)     input gate
    f = sigmoid(W_if x + W_hf h + b_f)     forget gate
    g = tanh(W_ig x + W_hg h + b_g)        candidate
    o = sigmoid(W_io x + W_ho h + b_o)     output gate
    c = f * c + i * g
    h = o * tanh(c)

and logits = W_hq h + b_q from the last layer's h. PyTorch stacks the gates in the order i, f, g, o (GRU: r, z, n)
and has two biases; for an LSTM and an RNN only their sum matters.

Shapes: B rows, T characters of each, V vocabulary, L layers, H hidden units, E embedding.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from segue_training.models.language_model import Dropout, LanguageModel, ModelConfig, State, dropped

_LAYERS: Final[Mapping[str, Callable[..., nn.RNNBase]]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
_FUSED: Final[Mapping[str, Callable[..., Any]]] = {"lstm": torch.lstm, "gru": torch.gru, "rnn": torch.rnn_tanh}


class Recurrent(LanguageModel):
    """Embedding, fused recurrent layers, linear output."""

    def __init__(self, config: ModelConfig, dropout: Dropout | None = None) -> None:
        super().__init__(config)
        self.dropout = dropout or Dropout()
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding)
        layers = _LAYERS[config.architecture]
        self.recurrent = layers(config.embedding, config.hidden, config.layers, batch_first=True)
        self.output = nn.Linear(config.hidden, config.vocabulary_size)

    def forward(self, ids_BT: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Read `ids_BT` (int64) from (h_LBH, c_LBH), or (h_LBH,); return (logits_BTV, *state)."""
        x = dropped(embedding(ids_BT, self.embedding.weight), self.dropout.input, training=self.training)
        ends: list[State] = []
        for layer in range(self.config.layers):
            if layer > 0:
                x = dropped(x, self.dropout.between, training=self.training)
            x, *end = self._read(layer, x, tuple(part[layer : layer + 1] for part in state))
            ends.append(tuple(end))
        logits_BTV = self.output(dropped(x, self.dropout.output, training=self.training))
        return logits_BTV, *(torch.cat(parts) for parts in zip(*ends, strict=True))

    def zero_state(self, rows: int = 1) -> State:
        """Return zeros: (h_LBH, c_LBH) of an LSTM, (h_LBH,) of the others."""
        shape = self.config.layers, rows, self.config.hidden
        parts = 2 if self.config.architecture == "lstm" else 1
        return tuple(self.output.weight.new_zeros(shape) for _ in range(parts))

    @torch.no_grad()
    def set_forget_bias(self, bias: float) -> None:
        """Set the forget gates' bias of an LSTM, so that cells initially keep their content.

        Gers et al. 2000; Jozefowicz et al. 2015 find 1 as effective as most architecture changes.
        """
        H = self.config.hidden
        for layer in range(self.config.layers):
            self.recurrent.get_parameter(f"bias_ih_l{layer}")[H : 2 * H] = bias
            self.recurrent.get_parameter(f"bias_hh_l{layer}")[H : 2 * H] = 0.0

    def _read(self, layer: int, x_BTE: Tensor, state: State) -> tuple[Tensor, ...]:
        """Run one layer by PyTorch's kernel; return (y_BTH, *state)."""
        names = (f"weight_ih_l{layer}", f"weight_hh_l{layer}", f"bias_ih_l{layer}", f"bias_hh_l{layer}")
        W_ih, W_hh, *biases = map(self.recurrent.get_parameter, names)
        kernel = _FUSED[self.config.architecture]
        before = state if self.config.architecture == "lstm" else state[0]
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        y, *end = kernel(x_BTE, before, [W_ih, self._dropped(W_hh), *biases], True, 1, 0.0, self.training, False, True)
        return y, *end

    def _dropped(self, W_hh: Tensor) -> Tensor:
        """Return the recurrent weights after dropout, the same for all time steps of a minibatch."""
        rate = self.dropout.weight
        if not self.training or rate == 0:
            return W_hh
        return W_hh * (torch.empty_like(W_hh).bernoulli_(1 - rate) / (1 - rate))
