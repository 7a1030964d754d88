"""A whole run: from a corpus to a checkpoint."""

import platform
from importlib.metadata import version

import torch

from charlm_training.checkpoint import Checkpoint, CorpusRecord, Tools
from charlm_training.corpus import Corpus
from charlm_training.errors import CorpusError
from charlm_training.evaluate import Perplexity, perplexity, validate
from charlm_training.loop import Report, train
from charlm_training.recipes import TrainingConfig
from charlm_training.vocabulary import Vocabulary


def run(corpus: Corpus, recipe: str, config: TrainingConfig, report: Report) -> Checkpoint:
    """Train on the first 90 % of `corpus` and validate on the rest. Raises CorpusError and Diverged.

    The vocabulary comes from the training text alone: a character that only validation text holds could not
    be learned, and is scored as `<unk>`, as a request's would be.
    """
    check_length(corpus, config)
    vocabulary = Vocabulary.from_text(corpus.training_text)
    training_N = torch.from_numpy(vocabulary.encode(corpus.training_text))
    validation_N = torch.from_numpy(vocabulary.encode(corpus.validation_text))
    trained = train(training_N, validation_N, len(vocabulary), config, report)
    return Checkpoint(
        model=trained.model.config,
        vocabulary=vocabulary,
        normalization=corpus.normalization,
        begin=begin(vocabulary),
        corpus=CorpusRecord(corpus.name, corpus.sha256, len(corpus.text)),
        recipe=recipe,
        training=config,
        steps=trained.steps,
        validation=validate(trained.model, training_N, validation_N),
        tools=tools(),
        weights=trained.model.state_dict(),
    )


def check_length(corpus: Corpus, config: TrainingConfig) -> None:
    """Raise CorpusError unless `corpus` fills one step and leaves two characters to validate on."""
    needed = max(-(-config.least_training_characters * 10 // 9), 11)
    if len(corpus.text) < needed:
        raise CorpusError(
            f"the text has {len(corpus.text)} characters; this recipe needs {needed} "
            f"(batch {config.batch} x time {config.time}): use a longer text or set a smaller batch"
        )


def begin(vocabulary: Vocabulary) -> str:
    """Return the character that an empty prompt is read as: a line feed, or else the most frequent one."""
    return "\n" if "\n" in vocabulary.characters else vocabulary.characters[1]


def tools() -> Tools:
    """Return what this process trains with."""
    return Tools(version("charlm"), platform.python_version(), str(torch.__version__), torch.get_num_threads())


def score(checkpoint: Checkpoint, corpus: Corpus) -> tuple[str, Perplexity]:
    """Score a text from the zero state; of the checkpoint's own corpus the validation text alone.

    Returns which part was scored, "whole" or "validation", and the figures. Raises CorpusError for a text of
    fewer than two characters.
    """
    seen = corpus.sha256 == checkpoint.corpus.sha256
    text = corpus.validation_text if seen else corpus.text
    if len(text) < 2:  # noqa: PLR2004 - one to read, one to score
        raise CorpusError(f"the text has {len(text)} characters; scoring needs 2")
    ids = torch.from_numpy(checkpoint.vocabulary.encode(text))
    return "validation" if seen else "whole", perplexity(checkpoint.build_model(), ids)
