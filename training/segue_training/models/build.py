"""From a shape to a model."""

from dataclasses import astuple
from typing import Literal

from segue_training.errors import ConfigurationError
from segue_training.models.language_model import Dropout, LanguageModel, ModelConfig
from segue_training.models.mlp import Mlp
from segue_training.models.recurrent import Recurrent
from segue_training.models.scratch import Scratch

Implementation = Literal["fused", "scratch"]


def build_model(
    config: ModelConfig, dropout: Dropout | None = None, implementation: Implementation = "fused"
) -> LanguageModel:
    """Return a model of the shape `config` with PyTorch's random weights.

    "scratch" computes the same function tensor by tensor, without dropout. An MLP has one implementation, and so has
    the architecture "gru-reset-before", for which PyTorch has no kernel. Raises ConfigurationError.
    """
    dropout = dropout or Dropout()
    if config.architecture == "mlp":
        return Mlp(config, dropout)
    if implementation == "fused" and config.architecture != "gru-reset-before":
        return Recurrent(config, dropout)
    if any(astuple(dropout)):
        raise ConfigurationError(
            f"{dropout} is not supported by {config.architecture!r} from scratch; set every rate to 0, "
            "or use a fused implementation ('lstm', 'gru' or 'rnn')"
        )
    return Scratch(config)
