"""From ids to minibatches: the orders in which a text is read.

    stream       B rows, each a B-th of the text, read window by window with the state carried over. Every symbol is
                 a target once per epoch.
    sequential   the same with full windows only, as in d2l's chapter "Language Models and the Dataset".
    random       d2l's random sampling: shuffled windows, each read from the zero state.
    documents    texts of similar length side by side, each from the zero state, padded to the longest.

An epoch is a function of (ids, configuration, its number) alone, so that a run can be resumed within it.

Shapes: N ids of a text, B rows, T symbols of each in one step.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue_training.randomness import generator, seed_for
from segue_training.recipes import TrainingConfig
from segue_training.text.documents import IGNORED, bucketed, document_spans, padded
from segue_training.text.vocabulary import UNKNOWN_ID, Ids

Arrays = NDArray[np.int64]
Windows = Iterator[tuple[Arrays, Arrays, bool]]
"""(ids_BT, targets_BT, whether the states are carried over) for each step of an epoch."""


@dataclass(frozen=True)
class Minibatch:
    """The input and targets of one step."""

    ids_BT: Tensor
    targets_BT: Tensor
    """The symbol after each of `ids_BT`; IGNORED after the end of a row."""
    keep_B: Tensor
    """1.0 where the row's state is carried over, 0.0 where it is reset to zero."""
    targets: int
    """The number of symbols to predict in all rows."""

    def rows(self, part: int, parts: int) -> "Minibatch":
        """Return part number `part` of the rows, divided among `parts` processes; `targets` stays that of all."""
        return self._each(lambda tensor: tensor.chunk(parts)[part])

    def pinned(self) -> "Minibatch":
        """Return a copy in page-locked memory, from which a GPU copies while the host goes on. Needs CUDA.

        Only contiguous tensors are copied without another copy in ordinary memory.
        """
        return self._each(lambda tensor: tensor.contiguous().pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Minibatch":
        tensors = {name: change(getattr(self, name)) for name in ("ids_BT", "targets_BT", "keep_B")}
        return replace(self, **tensors)  # type: ignore[arg-type]


def epoch(ids_N: Ids, config: TrainingConfig, number: int, line_feed: int) -> Iterator[Minibatch]:
    """Yield the minibatches of epoch 0, 1, ... over `ids_N`.

    Where states are carried over, each row is reset with probability `config.reset_rate`: a model that has seen only
    carried states may predict badly from the zero state. Each character is replaced by `<unk>` with probability
    `config.unknown_rate`, drawn anew every epoch, so that `<unk>` is trained. `line_feed` ends documents.
    """
    for index, (ids_BT, targets_BT, carried) in enumerate(_windows(ids_N, config, number, line_feed)):
        draws_B = torch.rand(len(ids_BT), generator=generator(config.seed, "reset", number, index))
        keep_B = (draws_B >= config.reset_rate) & carried
        targets = int((targets_BT != IGNORED).sum())
        yield Minibatch(torch.from_numpy(ids_BT), torch.from_numpy(targets_BT), keep_B.float(), targets)


def _windows(ids_N: Ids, config: TrainingConfig, number: int, line_feed: int) -> Windows:
    seed = seed_for(config.seed, "epoch", number)
    if config.documents == "lines":
        yield from _documents(ids_N, config, line_feed, seed)
        return
    for positions_BT, carried in _positions(len(ids_N), config, seed):
        read_BS = np.column_stack([positions_BT, positions_BT[:, -1] + 1])  # the last is only a target
        ids_BS = ids_N[read_BS].astype(np.int64)
        ids_BS[hidden(read_BS, config.shown_unknown, seed)] = UNKNOWN_ID
        yield ids_BS[:, :-1], ids_BS[:, 1:], carried


def _positions(length: int, config: TrainingConfig, seed: int) -> Iterator[tuple[Arrays, bool]]:
    """Yield the positions of each step's inputs in a text of `length`, and whether the states are carried over."""
    B, T = config.batch, config.time
    offset = int(np.random.default_rng(seed).integers(T))
    if config.partition == "random":
        for positions_BT in random_positions(length, B, T, offset, seed):
            yield positions_BT, False
        return
    for index, positions_BT in enumerate(stream_positions(length, B, T, offset)):
        if config.partition == "stream" or positions_BT.shape[1] == T:
            yield positions_BT, index > 0


def stream_positions(length: int, batch: int, time: int, offset: int) -> Iterator[Arrays]:
    """Yield the positions of rows that follow each other in the text.

    Every symbol after `offset`, except fewer than `batch` at the end, is a target exactly once. The last window is
    narrower if `time` does not divide the rows' length.
    """
    columns = (length - offset - 1) // batch
    first_B1 = offset + columns * np.arange(batch)[:, None]
    for start in range(0, columns, time):
        yield first_B1 + np.arange(start, min(start + time, columns))


def random_positions(length: int, batch: int, time: int, offset: int, seed: int) -> Iterator[Arrays]:
    """Yield the positions of shuffled windows, dropping those that do not fill a minibatch."""
    starts = offset + time * np.random.default_rng(seed).permutation((length - offset - 1) // time)
    for chosen_B in starts[: len(starts) // batch * batch].reshape(-1, batch):
        yield chosen_B[:, None] + np.arange(time)


def hidden(positions: Arrays, rate: float, seed: int) -> NDArray[np.bool_]:
    """Return a mask of the positions to replace by `<unk>`, a share `rate` of all.

    It is a function of the position, so that a character is hidden both as a target and as the next input, or not at
    all (the mixing function is SplitMix64's: Steele et al. 2014).
    """
    if rate == 0:
        return np.zeros(positions.shape, dtype=np.bool_)
    mixed = positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) < np.uint64(rate * 2**64)


def _documents(ids_N: Ids, config: TrainingConfig, line_feed: int, seed: int) -> Windows:
    """Yield documents of similar length side by side, in windows of at most `config.time` symbols."""
    draws = np.random.default_rng(seed)
    for group in bucketed(document_spans(ids_N, line_feed), config.batch, seed):
        ids_BC, targets_BC = padded(ids_N, group, line_feed)
        hidden_BC = (draws.random(targets_BC.shape) < config.shown_unknown) & (targets_BC != IGNORED)
        hidden_BC &= targets_BC != line_feed
        targets_BC[hidden_BC] = UNKNOWN_ID
        ids_BC[:, 1:][hidden_BC[:, :-1]] = UNKNOWN_ID
        for start in range(0, ids_BC.shape[1], config.time):
            window = slice(start, start + config.time)
            yield ids_BC[:, window], targets_BC[:, window], start > 0
