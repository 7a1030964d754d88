"""The language models that can be trained."""

from segue_training.models.build import Implementation, build_model
from segue_training.models.convert import from_checkpoint, to_checkpoint
from segue_training.models.initialize import Initialization, initialize
from segue_training.models.language_model import Architecture, Dropout, LanguageModel, ModelConfig, State
from segue_training.models.mlp import Mlp
from segue_training.models.recurrent import Recurrent
from segue_training.models.scratch import Scratch

__all__ = [
    "Architecture",
    "Dropout",
    "Implementation",
    "Initialization",
    "LanguageModel",
    "Mlp",
    "ModelConfig",
    "Recurrent",
    "Scratch",
    "State",
    "build_model",
    "from_checkpoint",
    "initialize",
    "to_checkpoint",
]
