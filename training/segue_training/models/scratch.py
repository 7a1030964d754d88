"""RNN, GRU and LSTM from scratch: d2l's equations, tensor by tensor and time step by time step.

See d2l, chapters "Recurrent Neural Networks", "Gated Recurrent Units", "Long Short-Term Memory" and "Deep Recurrent
Neural Networks". Rows are texts, so that weights multiply from the right: X (n, d) @ W_xh (d, h). * is elementwise.
Each layer states its equations; the output layer is the same for all:

    Y_t = H_t W_hq + b_q

A gate's X_t W_xg + b_g depends on no state. So it is computed for all time steps in one product, A_g, before the loop
over time, which adds what the state contributes. That halves the small products of a step.

`recurrent` computes the same functions with PyTorch's fused kernels, and `convert` converts the weights of either to
the other's.

Shapes: B rows, T symbols of each, V vocabulary, L layers, D inputs of a layer, H hidden units.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from segue_training.models.language_model import LanguageModel, ModelConfig, State


class Layer(nn.Module, ABC):
    """A recurrent layer: reads X_TBD from a state; returns H of every step, and the final state."""

    GATES: ClassVar[str]
    """The g of every W_xg, W_hg and b_g, in PyTorch's order."""
    STATES: ClassVar[int] = 1
    """Tensors in the layer's state."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        for gate in self.GATES:
            self.register_parameter(f"W_x{gate}", _random(hidden, inputs, hidden))
            self.register_parameter(f"W_h{gate}", _random(hidden, hidden, hidden))
            self.register_parameter(f"b_{gate}", _random(hidden, hidden))

    def forward(self, X_TBD: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return (H_TBH, *state)."""
        outputs: list[Tensor] = []
        for A in zip(*self.inputs(X_TBD), strict=True):
            state = self.advance(A, *state)
            outputs.append(state[0])
        return torch.stack(outputs), *state

    def step(self, X_BD: Tensor, *state: Tensor) -> State:
        """Return the state after one input; its first part, H, is what the layer above reads."""
        return self.advance(self.inputs(X_BD), *state)

    def inputs(self, X: Tensor) -> tuple[Tensor, ...]:
        """Return A_g = X W_xg + b_g of every gate g in GATES: [..., D] becomes [..., H]."""
        return tuple(X @ getattr(self, f"W_x{g}") + getattr(self, f"b_{g}") for g in self.GATES)

    @abstractmethod
    def advance(self, A: tuple[Tensor, ...], *state: Tensor) -> State:
        """Return the state after one input, of which A_BH of every gate is given."""


class RnnLayer(Layer):
    """A layer with a hidden state.

    H_t = tanh(X_t W_xh + H_{t-1} W_hh + b_h)
    """

    GATES = "h"
    W_hh: Tensor

    def advance(self, A: tuple[Tensor, ...], *state: Tensor) -> State:
        """Return (H,)."""
        (A_h,), (H_BH,) = A, state
        H_BH = torch.tanh(A_h + H_BH @ self.W_hh)
        return (H_BH,)


class GruLayer(Layer):
    """A gated recurrent unit whose reset gate acts before the matrix product, as in d2l.

    R_t = sigmoid(X_t W_xr + H_{t-1} W_hr + b_r)           reset gate
    Z_t = sigmoid(X_t W_xz + H_{t-1} W_hz + b_z)           update gate
    H~_t = tanh(X_t W_xh + (R_t * H_{t-1}) W_hh + b_h)     candidate
    H_t = Z_t * H_{t-1} + (1 - Z_t) * H~_t

    Z is PyTorch's z: 1 keeps the past. Some papers (Chung et al. 2014) define it the other way round.
    """

    GATES = "rzh"
    W_hr: Tensor
    W_hz: Tensor
    W_hh: Tensor

    def advance(self, A: tuple[Tensor, ...], *state: Tensor) -> State:
        """Return (H,)."""
        (A_r, A_z, A_h), (H_BH,) = A, state
        R_BH = torch.sigmoid(A_r + H_BH @ self.W_hr)
        Z_BH = torch.sigmoid(A_z + H_BH @ self.W_hz)
        H_tilde_BH = self.candidate(A_h, R_BH, H_BH)
        H_BH = Z_BH * H_BH + (1 - Z_BH) * H_tilde_BH
        return (H_BH,)

    def candidate(self, A_h: Tensor, R_BH: Tensor, H_BH: Tensor) -> Tensor:
        """Return H~."""
        return torch.tanh(A_h + (R_BH * H_BH) @ self.W_hh)


class GruResetAfterLayer(GruLayer):
    """The gated recurrent unit of the fused kernels, whose reset gate acts after the matrix product.

    H~_t = tanh(X_t W_xh + b_h + R_t * (H_{t-1} W_hh + b_hh))

    cuDNN and PyTorch use this form because one product with [W_hr, W_hz, W_hh] serves the whole step. The function
    differs from d2l's, and it has one more bias, which the reset gate scales.
    """

    b_hh: Tensor

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden)
        self.register_parameter("b_hh", _random(hidden, hidden))

    def candidate(self, A_h: Tensor, R_BH: Tensor, H_BH: Tensor) -> Tensor:
        """Return H~."""
        return torch.tanh(A_h + R_BH * (H_BH @ self.W_hh + self.b_hh))


class LstmLayer(Layer):
    """A long short-term memory.

    F_t = sigmoid(X_t W_xf + H_{t-1} W_hf + b_f)     forget gate
    I_t = sigmoid(X_t W_xi + H_{t-1} W_hi + b_i)     input gate
    O_t = sigmoid(X_t W_xo + H_{t-1} W_ho + b_o)     output gate
    C~_t = tanh(X_t W_xc + H_{t-1} W_hc + b_c)       candidate
    C_t = F_t * C_{t-1} + I_t * C~_t
    H_t = O_t * tanh(C_t)

    The memory cell C stays inside; only H reaches the layer above. PyTorch calls the candidate g.
    """

    GATES = "ifco"
    STATES = 2
    W_hi: Tensor
    W_hf: Tensor
    W_hc: Tensor
    W_ho: Tensor

    def advance(self, A: tuple[Tensor, ...], *state: Tensor) -> State:
        """Return (H, C)."""
        (A_i, A_f, A_c, A_o), (H_BH, C_BH) = A, state
        F_BH = torch.sigmoid(A_f + H_BH @ self.W_hf)
        I_BH = torch.sigmoid(A_i + H_BH @ self.W_hi)
        O_BH = torch.sigmoid(A_o + H_BH @ self.W_ho)
        C_tilde_BH = torch.tanh(A_c + H_BH @ self.W_hc)
        C_BH = F_BH * C_BH + I_BH * C_tilde_BH
        H_BH = O_BH * torch.tanh(C_BH)
        return H_BH, C_BH


LAYERS: Final[Mapping[str, type[Layer]]] = {
    "rnn": RnnLayer,
    "gru": GruResetAfterLayer,
    "gru-reset-before": GruLayer,
    "lstm": LstmLayer,
}
"""The layer of each recurrent architecture."""


class Scratch(LanguageModel):
    """Embedding, recurrent layers from scratch, linear output.

    An LSTM of one layer has 12 tensors for its gates and 2 for its output. Initial weights are uniform within
    1 / sqrt(H), as in PyTorch.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        layer, hidden = LAYERS[config.architecture], config.hidden
        self.states = layer.STATES
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding)
        self.layers = nn.ModuleList(layer(hidden if k else config.embedding, hidden) for k in range(config.layers))
        self.W_hq = _random(hidden, hidden, config.vocabulary_size)
        self.b_q = _random(hidden, config.vocabulary_size)

    def forward(self, ids_BT: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Read `ids_BT` (int64) from (H_LBH, C_LBH), or (H_LBH,); return (logits_BTV, *state)."""
        X_TBD = self.embedding(ids_BT.T)
        ends: list[State] = []
        for k, layer in enumerate(self.layers):
            X_TBD, *end = layer(X_TBD, *(part[k] for part in state))  # the layer above reads this one's H
            ends.append(tuple(end))
        Y_TBV = X_TBD @ self.W_hq + self.b_q
        return Y_TBV.transpose(0, 1), *(torch.stack(parts) for parts in zip(*ends, strict=True))

    def zero_state(self, rows: int = 1) -> State:
        """Return zeros: (H_LBH, C_LBH) of an LSTM, (H_LBH,) of the others."""
        shape = self.config.layers, rows, self.config.hidden
        return tuple(self.b_q.new_zeros(shape) for _ in range(self.states))


def _random(hidden: int, *shape: int) -> nn.Parameter:
    bound = 1 / math.sqrt(hidden)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
