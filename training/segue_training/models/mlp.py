"""A multilayer perceptron over a fixed window of symbols: the contrast to a hidden state.

With X_t the concatenated embeddings of the last n symbols, including the current one (d2l, chapter "Recurrent Neural
Networks", section "Neural Networks without Hidden States"; as a language model: Bengio et al. 2003):

    H_t = tanh(X_t W_xh + b_h)
    O_t = H_t W_hq + b_q

Further layers read the H_t below them. d2l leaves the activation open; tanh is that of its RNN, so that the two differ
only in the recurrence. Symbols more than n steps back cannot influence O_t.

Shapes: B rows, T symbols of each, V vocabulary, E embedding, H hidden units, P past symbols of the window.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from segue_training.errors import ConfigurationError
from segue_training.models.language_model import Dropout, LanguageModel, ModelConfig, State, dropped


class Mlp(LanguageModel):
    """Embedding of a window, hidden layers without recurrence, linear output."""

    def __init__(self, config: ModelConfig, dropout: Dropout | None = None) -> None:
        super().__init__(config)
        self.dropout = dropout or Dropout()
        if self.dropout.weight > 0:
            raise ConfigurationError(f"weight dropout is {self.dropout.weight}; an MLP has no recurrent weights: use 0")
        widths = [config.window * config.embedding, *[config.hidden] * config.layers]
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding)
        self.hidden = nn.ModuleList(nn.Linear(*ends) for ends in pairwise(widths))
        self.output = nn.Linear(config.hidden, config.vocabulary_size)

    def forward(self, ids_BT: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Read `ids_BT` (int64) after the embedded symbols past_PBE; return (logits_BTV, past_PBE)."""
        (past_PBE,) = state
        read_BTE = torch.cat([past_PBE.transpose(0, 1), embedding(ids_BT, self.embedding.weight)], dim=1)
        h_BTH = _windows(dropped(read_BTE, self.dropout.input, training=self.training), self.config.window)
        for k, layer in enumerate(self.hidden):
            h_BTH = torch.tanh(layer(dropped(h_BTH, self.dropout.between if k else 0.0, training=self.training)))
        logits_BTV = self.output(dropped(h_BTH, self.dropout.output, training=self.training))
        return logits_BTV, read_BTE[:, ids_BT.shape[1] :].transpose(0, 1)

    def zero_state(self, rows: int = 1) -> State:
        """Return the past of a new text: a zero vector, which is no symbol's embedding, for every symbol."""
        return (self.output.weight.new_zeros(self.config.window - 1, rows, self.config.embedding),)


def _windows(read_BSE: Tensor, size: int) -> Tensor:
    """Return [B, T, size * E]: the last `size` symbols at each of the last T = S - size + 1 positions."""
    return read_BSE.unfold(1, size, 1).transpose(2, 3).flatten(2)
