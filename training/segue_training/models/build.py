"""From a shape to a model."""

from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import Final, Literal

from segue_training.errors import ConfigurationError
from segue_training.models.language_model import Architecture, Dropout, LanguageModel, ModelConfig
from segue_training.models.mlp import Mlp
from segue_training.models.recurrent import Recurrent
from segue_training.models.scratch import Scratch

Implementation = Literal["fused", "scratch"]

Build = Callable[[ModelConfig, Dropout], LanguageModel]


def build_model(
    config: ModelConfig, dropout: Dropout | None = None, implementation: Implementation = "fused"
) -> LanguageModel:
    """Return a model of the shape `config` with PyTorch's random weights.

    "scratch" computes the same function tensor by tensor, without dropout. An MLP has one implementation, and so
    has the architecture "gru-reset-before", for which PyTorch has no kernel. Raises ConfigurationError.
    """
    return _BUILD[implementation][config.architecture](config, dropout or Dropout())


def _from_scratch(config: ModelConfig, dropout: Dropout) -> LanguageModel:
    if any(astuple(dropout)):
        raise ConfigurationError(
            f"{dropout} is asked of {config.architecture!r} from scratch, which has none; set every rate to 0, "
            "or take a fused implementation ('lstm', 'gru' or 'rnn')"
        )
    return Scratch(config)


_FUSED: Final[Mapping[Architecture, Build]] = {
    "lstm": Recurrent,
    "gru": Recurrent,
    "gru-reset-before": _from_scratch,
    "rnn": Recurrent,
    "mlp": Mlp,
}
_SCRATCH: Final[Mapping[Architecture, Build]] = {
    "lstm": _from_scratch,
    "gru": _from_scratch,
    "gru-reset-before": _from_scratch,
    "rnn": _from_scratch,
    "mlp": Mlp,
}
_BUILD: Final[Mapping[Implementation, Mapping[Architecture, Build]]] = {"fused": _FUSED, "scratch": _SCRATCH}
