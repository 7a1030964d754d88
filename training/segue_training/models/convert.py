"""Conversion between a model from scratch and the layout of checkpoints, which is that of the fused layers.

With the gates g of a layer stacked in PyTorch's order:

    recurrent.weight_ih_l{k} = [W_xg^T ...]      recurrent.bias_ih_l{k} = [b_g ...]
    recurrent.weight_hh_l{k} = [W_hg^T ...]      recurrent.bias_hh_l{k} = 0
    output.weight = W_hq^T                       output.bias = b_q

PyTorch has two biases where d2l's text has one; only their sum matters, except in the candidate of "gru": there the
second bias is b_hh, which the reset gate scales. "gru-reset-before" uses the layout of "gru" and the sum.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from segue_training.models.language_model import LanguageModel, ModelConfig
from segue_training.models.scratch import LAYERS, Scratch

Weights = Mapping[str, Tensor]


def to_checkpoint(model: LanguageModel) -> dict[str, Tensor]:
    """Return a copy of the weights of `model` in the layout of checkpoints."""
    weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    return fused_weights(model.config, weights) if isinstance(model, Scratch) else weights


def from_checkpoint(model: LanguageModel, weights: Weights) -> None:
    """Set the weights of `model` from a checkpoint of its shape."""
    model.load_state_dict(scratch_weights(model.config, weights) if isinstance(model, Scratch) else dict(weights))


def fused_weights(config: ModelConfig, weights: Weights) -> dict[str, Tensor]:
    """Convert the weights of a `Scratch` of this shape to those of a `Recurrent`."""
    ends = {
        "embedding.weight": weights["embedding.weight"],
        "output.weight": weights["W_hq"].T.contiguous(),
        "output.bias": weights["b_q"],
    }
    layers = (_stack(k, LAYERS[config.architecture].GATES, weights) for k in range(config.layers))
    return {name: weight for part in (ends, *layers) for name, weight in part.items()}


def scratch_weights(config: ModelConfig, weights: Weights) -> dict[str, Tensor]:
    """Convert the weights of a `Recurrent` of this shape to those of a `Scratch`."""
    ends = {
        "embedding.weight": weights["embedding.weight"],
        "W_hq": weights["output.weight"].T,
        "b_q": weights["output.bias"],
    }
    layers = (_unstack(k, config.architecture, weights) for k in range(config.layers))
    return {name: weight for part in (ends, *layers) for name, weight in part.items()}


def _stack(k: int, gates: str, weights: Weights) -> dict[str, Tensor]:
    layer = f"layers.{k}."
    biases = [weights[f"{layer}b_{gate}"] for gate in gates]
    second = [torch.zeros_like(bias) for bias in biases]
    second[-1] = weights.get(f"{layer}b_hh", second[-1])
    return {
        f"recurrent.weight_ih_l{k}": torch.cat([weights[f"{layer}W_x{gate}"].T for gate in gates]),
        f"recurrent.weight_hh_l{k}": torch.cat([weights[f"{layer}W_h{gate}"].T for gate in gates]),
        f"recurrent.bias_ih_l{k}": torch.cat(biases),
        f"recurrent.bias_hh_l{k}": torch.cat(second),
    }


def _unstack(k: int, architecture: str, weights: Weights) -> dict[str, Tensor]:
    layer, gates = f"layers.{k}.", LAYERS[architecture].GATES
    names = (f"weight_ih_l{k}", f"weight_hh_l{k}", f"bias_ih_l{k}", f"bias_hh_l{k}")
    parts = [weights[f"recurrent.{name}"].chunk(len(gates)) for name in names]
    unstacked: dict[str, Tensor] = {}
    for gate, W_ih, W_hh, first, second in zip(gates, *parts, strict=True):
        unstacked |= {f"{layer}W_x{gate}": W_ih.T, f"{layer}W_h{gate}": W_hh.T, f"{layer}b_{gate}": first + second}
    if architecture == "gru":
        unstacked |= {f"{layer}b_h": parts[2][-1], f"{layer}b_hh": parts[3][-1]}
    return unstacked
