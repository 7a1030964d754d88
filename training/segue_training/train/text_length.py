"""Whether a text is long enough to train and validate on."""

from typing import Final

from segue_training.data.encoding import EncodedCorpus
from segue_training.errors import CorpusError
from segue_training.recipes import TrainingConfig

LEAST_VALIDATION: Final = 2
"""Symbols: one to read, one to score."""


def check_length(corpus: EncodedCorpus, config: TrainingConfig) -> None:
    """Raise CorpusError unless the corpus fills one step and leaves two symbols for validation."""
    found = len(corpus.training)
    if config.documents == "lines" and found == 0:
        raise CorpusError("the training text holds no whole line: use a longer text or set a larger max_tokens")
    needed = 0 if config.documents == "lines" else config.least_training_symbols
    if found < needed:
        raise CorpusError(
            f"the training text has {found} symbol{'' if found == 1 else 's'}; this recipe needs {needed} "
            f"(batch {config.batch} x time {config.time}): {_remedy(corpus, config)}"
        )
    if config.documents == "lines" and not len(corpus.validation):
        raise CorpusError(
            "the last line alone is a tenth of the text or more, and leaves no other for validation: add lines, or "
            "divide the long one"
        )
    if len(corpus.validation) < LEAST_VALIDATION:
        held_out = "1 symbol" if len(corpus.validation) else "no symbol"
        raise CorpusError(f"the validation text, the last tenth, has {held_out} and needs 2: use a longer text")


def _remedy(corpus: EncodedCorpus, config: TrainingConfig) -> str:
    """Say which settings the text would suffice for, with as few changes as possible."""
    symbols = len(corpus.training)
    if len(corpus.validation) < LEAST_VALIDATION:
        return "use a longer text"
    if (batch := (symbols - 1) // config.time - 1) >= 1:
        return f"use a longer text or --set batch={batch}"
    if (time := (symbols - 1) // (config.batch + 1)) >= 1:
        return f"use a longer text or --set time={time}"
    if (time := (symbols - 1) // 2) >= 1:
        return f"use a longer text or --set batch=1 --set time={time}"
    return "use a longer text"
