"""The language models that can be trained."""

from charlm_training.models.lstm import Lstm, ModelConfig, State

__all__ = ["Lstm", "ModelConfig", "State"]
