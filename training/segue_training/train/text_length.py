"""Whether a text is long enough to train and validate on."""

from segue_training.data.encoding import EncodedCorpus
from segue_training.errors import CorpusError
from segue_training.recipes import TrainingConfig


def check_length(corpus: EncodedCorpus, config: TrainingConfig) -> None:
    """Raise CorpusError unless the corpus fills one step and leaves two symbols for validation."""
    found = len(corpus.training)
    if config.documents == "lines" and found == 0:
        raise CorpusError("the training text holds no whole line: use a longer text or set a larger max_tokens")
    needed = 0 if config.documents == "lines" else config.least_training_symbols
    if found < needed:
        raise CorpusError(
            f"the training text has {found} symbol{'' if found == 1 else 's'}; this recipe needs {needed} "
            f"(batch {config.batch} x time {config.time}): {_remedy(found, config)}"
        )
    if config.documents == "lines" and not len(corpus.validation):
        raise CorpusError(
            "the last line alone is a tenth of the text or more, and leaves no other for validation: add lines, or "
            "divide the long one"
        )
    if len(corpus.validation) < 2:  # noqa: PLR2004 - one to read, one to score
        held_out = "1 symbol" if len(corpus.validation) else "no symbol"
        raise CorpusError(f"the validation text, the last tenth, has {held_out} and needs 2: use a longer text")


def _remedy(symbols: int, config: TrainingConfig) -> str:
    """Say which settings `symbols` would suffice for, with as few changes as possible."""
    if (batch := (symbols - 1) // config.time - 1) >= 1:
        return f"use a longer text or --set batch={batch}"
    if (time := (symbols - 1) // (config.batch + 1)) >= 1:
        return f"use a longer text or --set time={time}"
    if (time := (symbols - 1) // 2) >= 1:
        return f"use a longer text or --set batch=1 --set time={time}"
    return "use a longer text"
