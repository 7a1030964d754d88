"""Checkpoints with made-up figures."""

from segue_training.evaluation.perplexity import Perplexity, Validation
from segue_training.models import LanguageModel
from segue_training.recipes import TrainingConfig
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, CorpusRecord, Tools
from segue_training.train.train_state import Evaluation


def checkpoint_of(
    model: LanguageModel, vocabulary: Vocabulary, config: TrainingConfig, /, **changes: object
) -> Checkpoint:
    fields = {
        "model": model.config,
        "vocabulary": vocabulary,
        "normalization": "line-feeds",
        "begin": "\n",
        "corpus": CorpusRecord("cats", "ab" * 32, 5000),
        "recipe": "small",
        "training": config,
        "steps": 60,
        "validation": Validation(Perplexity(1.5, 499, 1), Perplexity(1.25, 500, 1)),
        "tools": Tools("0.1", "3.11", "2.13", 4),
        "history": (Evaluation(30, 100, 1.0, 2.0, 2.1, 0.01), Evaluation(60, 200, 2.0, 1.5, 1.8, 0.005)),
        "weights": model.state_dict(),
    }
    return Checkpoint(**{**fields, **changes})  # type: ignore[arg-type]
