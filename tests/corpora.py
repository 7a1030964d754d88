"""Corpora held in memory."""

import io

from segue_training.data.corpus import Corpus, TextFile


def corpus_of(*texts: str, name: str = "any") -> Corpus:
    """Return a corpus of one file for each text."""
    return Corpus(name, tuple(TextFile(name, lambda text=text: io.BytesIO(text.encode())) for text in texts))
