"""Minibatches for truncated backpropagation through time with a carried state.

Sequential partitioning (d2l, chapter "Language Models and the Dataset"): from a random offset, the text is
cut into B rows of equal length, and each minibatch is the next T characters of every row. Row b of a
minibatch therefore goes on where row b of the one before ended, and its state can be carried across.

Shapes: N characters of the text, B rows, T characters of a row in one minibatch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from charlm_training.vocabulary import UNKNOWN_ID


@dataclass(frozen=True)
class Minibatch:
    """The next characters of every row."""

    ids_BT: Tensor
    targets_BT: Tensor
    """The character after each of `ids_BT`."""
    keep_B: Tensor
    """1.0 where the row's state is carried over, 0.0 where it begins from zero."""


def partition(ids_N: Tensor, batch: int, time: int, offset: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the (ids_BT, targets_BT) of one pass.

    Every character of ids_N[offset + 1 :], but the fewer than `batch` last ones, is a target exactly once.
    The last minibatch is narrower where `time` does not divide the rows' length.
    """
    columns = (len(ids_N) - offset - 1) // batch
    end = offset + batch * columns
    rows_BC = ids_N[offset:end].view(batch, columns)
    targets_BC = ids_N[offset + 1 : end + 1].view(batch, columns)
    yield from zip(torch.split(rows_BC, time, dim=1), torch.split(targets_BC, time, dim=1), strict=True)


def minibatches(  # noqa: PLR0913 - each is one number of the recipe
    ids_N: Tensor,
    batch: int,
    time: int,
    *,
    reset_rate: float,
    unknown_rate: float,
    generator: torch.Generator,
) -> Iterator[Minibatch]:
    """Yield minibatches without end: pass after pass over `ids_N`, each from an offset in 0 .. time - 1.

    All rows begin a pass with the zero state, and later on each with probability `reset_rate`: a model that
    has only seen carried states can be lost in the zero state. Each character is `<unk>` with probability
    `unknown_rate`, drawn anew in every pass.
    """
    while True:
        offset = int(torch.randint(time, (), generator=generator))
        shown_N = hide(ids_N, unknown_rate, generator)
        for number, (ids_BT, targets_BT) in enumerate(partition(shown_N, batch, time, offset)):
            carried_B = torch.rand(batch, generator=generator) >= reset_rate
            yield Minibatch(ids_BT, targets_BT, (carried_B & (number > 0)).float())


def hide(ids_N: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Return `ids_N` with a share `rate` of the characters as `<unk>`, so that its weights learn."""
    return ids_N.masked_fill(torch.rand(len(ids_N), generator=generator) < rate, UNKNOWN_ID)
