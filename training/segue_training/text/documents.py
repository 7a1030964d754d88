r"""Documents, one per line: their spans in the ids, their grouping into minibatches, and their padding.

The line feed is both the begin and the end symbol: a model reads "\n" + line and predicts line + "\n".

Shapes: N ids of a text, D documents, B documents of a minibatch, T symbols of the longest of them with its line feed.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segue_training.text.vocabulary import Ids

IGNORED: Final = -100
"""The target in padding, which torch's cross entropy ignores by default."""

BLOCK: Final = 2**20
"""Ids searched at a time."""

POOL: Final = 64
"""Minibatches whose documents are sorted by length together."""

_LINE_FEEDS: Final = re.compile("\n+")

Spans = NDArray[np.int64]
"""[D, 2]: the start of each document, and its length without the line feed."""


def without_empty_lines(blocks: Iterable[str]) -> Iterator[str]:
    """Yield a text in blocks, without its empty lines."""
    last = "\n"
    for block in blocks:
        text = _LINE_FEEDS.sub("\n", block).removeprefix("\n" if last == "\n" else "")
        last = text[-1:] or last
        yield text


def document_spans(ids_N: Ids, line_feed: int) -> Spans:
    """Return the spans of the non-empty documents that the id `line_feed` separates."""
    ends = [start + np.flatnonzero(ids_N[start : start + BLOCK] == line_feed) for start in range(0, len(ids_N), BLOCK)]
    starts_D = np.concatenate([[0], *(end + 1 for end in ends)]).astype(np.int64)
    lengths_D = np.diff(starts_D, append=len(ids_N) + 1) - 1
    return np.stack([starts_D, lengths_D], axis=1)[lengths_D > 0]


def whole_documents(ids_N: Ids, line_feed: int) -> Ids:
    """Return `ids_N` up to its last line feed; nothing if it has none."""
    for end in range(len(ids_N), 0, -BLOCK):
        start = max(end - BLOCK, 0)
        if len(line_feeds := np.flatnonzero(ids_N[start:end] == line_feed)):
            return ids_N[: start + line_feeds[-1] + 1]
    return ids_N[:0]


def bucketed(spans: Spans, batch: int, seed: int) -> Iterator[Spans]:
    """Yield groups of `batch` documents of similar length, in random order; one group may be smaller.

    Every document is in one group, and the same seed gives the same groups. The documents are shuffled, then sorted by
    length within pools of POOL groups, so that there is little padding and each epoch groups them differently.
    """
    draws = np.random.default_rng(seed)
    shuffled = spans[draws.permutation(len(spans))]
    pools = (shuffled[start : start + batch * POOL] for start in range(0, len(spans), batch * POOL))
    ordered = np.concatenate([spans[:0], *(pool[np.argsort(pool[:, 1], kind="stable")] for pool in pools)])
    for start in draws.permutation(range(0, len(spans), batch)):
        yield ordered[start : start + batch]


def padded(ids_N: Ids, group: Spans, line_feed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (inputs_BT, targets_BT) of a group of documents, one per row.

    After the end of a row the inputs are 0 and the targets IGNORED.
    """
    shape = len(group), int(group[:, 1].max()) + 1
    inputs_BT, targets_BT = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    inputs_BT[:, 0] = line_feed
    for row, (start, length) in enumerate(group):
        document = ids_N[start : start + length]
        inputs_BT[row, 1 : length + 1] = document
        targets_BT[row, :length] = document
        targets_BT[row, length] = line_feed
    return inputs_BT, targets_BT
