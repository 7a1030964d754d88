"""Initial weights."""

from typing import Literal

import torch
from torch import nn

from segue_training.models.language_model import LanguageModel
from segue_training.models.recurrent import Recurrent

Initialization = Literal["pytorch", "normal"]


@torch.no_grad()
def initialize(model: LanguageModel, how: Initialization, forget_bias: float, *, one_hot: bool = False) -> None:
    """Initialize a new `model`, from PyTorch's global random state.

    "pytorch" keeps the weights it was built with; "normal" draws weights from N(0, 0.01^2) and sets biases to 0, as
    d2l's models from scratch do. `forget_bias` is set on every forget gate of an LSTM. `one_hot` fixes the embedding to
    the identity, so that symbols are read as one-hot vectors.
    """
    if how == "normal":
        _draw_from_normal(model)
    if model.config.architecture == "lstm":
        _set_forget_bias(model, forget_bias)
    if one_hot:
        _make_one_hot(model)


def _draw_from_normal(model: LanguageModel) -> None:
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.01)
        else:
            nn.init.zeros_(parameter)


def _set_forget_bias(model: LanguageModel, bias: float) -> None:
    if isinstance(model, Recurrent):
        model.set_forget_bias(bias)
        return
    for name, parameter in model.named_parameters():
        if name.endswith(".b_f"):
            nn.init.constant_(parameter, bias)


def _make_one_hot(model: LanguageModel) -> None:
    embedding = model.get_parameter("embedding.weight")
    nn.init.eye_(embedding)
    embedding.requires_grad = False
