"""The LSTM language model (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

With x_t the embedded character, for every layer (d2l, chapter "Long Short-Term Memory"):

    i = sigmoid(W_ii x + W_hi h + b_i)     what to write into the cell
    f = sigmoid(W_if x + W_hf h + b_f)     what to keep of it
    g = tanh(W_ig x + W_hg h + b_g)        the candidate
    o = sigmoid(W_io x + W_ho h + b_o)     what to show of it
    c = f * c + i * g
    h = o * tanh(c)

and logits = W_hq h + b_q from the last layer's h. PyTorch stacks the gates in the order i, f, g, o and has
two biases whose sum is b.

Shapes: B rows, T characters of each, V vocabulary, L layers, H hidden units, E embedding.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from charlm_training.settings import Range, check_ranges

State = tuple[Tensor, Tensor]
"""(h_LBH, c_LBH): all that the model remembers of a text."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model; with a state dict of that shape it is the whole model."""

    vocabulary_size: Annotated[int, Range(2, 2**21)]
    embedding: Annotated[int, Range(1, 2**16)]
    hidden: Annotated[int, Range(1, 2**14)]
    layers: Annotated[int, Range(1, 16)]
    architecture: Literal["lstm"] = "lstm"

    def __post_init__(self) -> None:
        check_ranges(self)


class Lstm(nn.Module):
    """Embedding, fused LSTM layers, linear output.

    `dropout` is the rate at which units of every layer's output are dropped (Zaremba et al. 2014: never along
    time); it acts in training mode alone.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding)
        self.lstm = nn.LSTM(
            config.embedding,
            config.hidden,
            config.layers,
            batch_first=True,
            dropout=dropout if config.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(config.hidden, config.vocabulary_size)

    def forward(self, ids_BT: Tensor, h_LBH: Tensor, c_LBH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read `ids_BT` (int64) on from the state; return logits_BTV and the state behind the last character.

        logits_BTV[b, t] scores the character after ids_BT[b, t].
        """
        x_BTE = self.embedding(ids_BT)
        y_BTH, (h_LBH, c_LBH) = self.lstm(x_BTE, (h_LBH, c_LBH))
        return self.output(self.dropout(y_BTH)), h_LBH, c_LBH

    def zero_state(self, rows: int = 1) -> State:
        """Return the state in which every text begins."""
        zeros_LBH = torch.zeros(self.config.layers, rows, self.config.hidden)
        return zeros_LBH, zeros_LBH.clone()

    @torch.no_grad()
    def set_forget_bias(self, bias: float) -> None:
        """Set the forget gate's bias to `bias`, so that cells keep what they hold at first.

        Gers et al. 2000; Jozefowicz et al. 2015 find 1 to be worth most architecture changes.
        """
        H = self.config.hidden
        for layer in range(self.config.layers):
            self.lstm.get_parameter(f"bias_ih_l{layer}")[H : 2 * H] = bias
            self.lstm.get_parameter(f"bias_hh_l{layer}")[H : 2 * H] = 0.0
