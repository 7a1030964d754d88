"""What is done to every text before it is encoded: by training, and by everything that reads its models.

A model carries the name of its normalization, so that a server treats a request's text exactly as training
treated the corpus.
"""

from collections.abc import Callable, Mapping
from typing import Final

BYTE_ORDER_MARK: Final = "\ufeff"


def line_feeds(text: str) -> str:
    """Drop a byte order mark at the start and write every line end (CR, CR LF) as a line feed."""
    return text.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")


NORMALIZATIONS: Final[Mapping[str, Callable[[str], str]]] = {"line-feeds": line_feeds}
"""Every known normalization by the name that a model carries."""

DEFAULT_NORMALIZATION: Final = "line-feeds"
