"""Scoring a text in constant memory, whatever its length.

`Reader` is a PyTorch model or an exported graph. Each `in_*` function is a way of reading and yields log-probabilities
part by part; `Perplexity.of` sums them up.

    in_one_piece    the state is carried from the first symbol to the last
    in_windows      the state is reset after each window; the difference is what carrying it gains
    in_documents    every document starts from the zero state

Shapes: N symbols of a text, M symbols read before it, T of a chunk, B rows, C columns of rows, V vocabulary.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from segue_training.evaluation.perplexity import Perplexity, Scored, Validation, first_character
from segue_training.models import State
from segue_training.text.documents import IGNORED, document_spans, padded
from segue_training.text.vocabulary import Documents, Ids, Vocabulary

CHUNK: Final = 1024
"""Symbols of a row whose activations are in memory at a time, at most."""

MOST_LOGITS: Final = 2**25
"""Of all rows, in memory at a time."""

ROWS: Final = 64
"""Windows or documents read side by side."""

WARM_UP: Final = 4096
"""Symbols of the training text that are read before validation in a carried state."""


class Reader(Protocol):
    """What can be evaluated: a LanguageModel or an exported graph."""

    def __call__(self, ids_BT: Tensor, /, *state: Tensor) -> tuple[Tensor, ...]:
        """Read `ids_BT` from the state; return (logits_BTV, *state)."""

    def zero_state(self, rows: int = 1) -> State:
        """Return the initial state of every text, on the device where `ids_BT` is expected."""


def perplexity(model: Reader, ids_N: Ids, vocabulary: Vocabulary, documents: Documents = "none") -> Perplexity:
    """Score a text from the zero state; its first character is read only.

    With documents="lines" every character is scored, and every line feed as the end of its document. Raises CorpusError
    if there is nothing to score.
    """
    return Perplexity.of(_from_zero(model, ids_N, vocabulary, documents), vocabulary)


def validate(
    model: Reader, training_N: Ids, validation_N: Ids, vocabulary: Vocabulary, documents: Documents = "none"
) -> Validation:
    """Score the whole validation text fresh and carried. Raises CorpusError."""
    fresh = perplexity(model, validation_N, vocabulary, documents)
    if documents == "lines" or len(training_N) == 0:
        return Validation(fresh, fresh)
    scored = in_one_piece(model, training_N[-WARM_UP:], validation_N)
    return Validation(fresh, Perplexity.of(scored, vocabulary))


@torch.inference_mode()
def in_one_piece(model: Reader, before_M: Ids, ids_N: Ids, chunk: int | None = None) -> Iterator[Scored]:
    """Score every symbol of `ids_N` after reading `before_M` (at least one symbol) from the zero state.

    `chunk`: symbols that are read at a time; None: as many as suit the vocabulary.
    """
    _stop_dropout(model)
    chunk = chunk or _chunk(model, 1)
    state = _read(model, before_M[:-1], chunk)
    last = before_M[-1:]
    for start in range(0, len(ids_N), chunk):
        targets_T = ids_N[start : start + chunk]
        ids_T = np.concatenate([last, targets_T[:-1]])
        log_probabilities_BT, state = _predict(model, ids_T[None], targets_T[None], state)
        yield log_probabilities_BT[0], targets_T
        last = targets_T[-1:]


@torch.inference_mode()
def in_windows(model: Reader, ids_N: Ids, window: int, rows: int = ROWS) -> Iterator[Scored]:
    """Score ids_N[1:] in windows of `window` symbols, each from the zero state, `rows` of them side by side."""
    _stop_dropout(model)
    for start in range(0, len(ids_N) - 1, rows * window):
        part = ids_N[start : start + rows * window + 1]
        full = (len(part) - 1) // window * window
        for ids, width in ((part[: full + 1], window), (part[full:], len(part) - 1 - full)):
            if len(ids) > 1:
                yield from _side_by_side(model, ids[:-1].reshape(-1, width), ids[1:].reshape(-1, width))


@torch.inference_mode()
def in_documents(model: Reader, ids_N: Ids, line_feed: int) -> Iterator[Scored]:
    """Score every document and its line feed, from the zero state after a line feed; shortest documents first."""
    _stop_dropout(model)
    spans = document_spans(ids_N, line_feed)
    spans = spans[np.argsort(spans[:, 1], kind="stable")]  # by length: little padding
    for index in range(0, len(spans), ROWS):
        yield from _side_by_side(model, *padded(ids_N, spans[index : index + ROWS], line_feed))


def nats_in_rows(model: Reader, ids_N: Ids, rows: int) -> float:
    """Return the mean nats per symbol of a text cut into `rows`, each read from the zero state.

    Much faster than `perplexity` and slightly too high: good enough to follow progress. At most len(ids_N) - 1 rows;
    the few symbols that do not fill a column are dropped.
    """
    columns = (len(ids_N) - 1) // rows
    return _mean_nats(in_windows(model, ids_N[: rows * columns + 1], columns, rows))


def nats_in_documents(model: Reader, ids_N: Ids, line_feed: int) -> float:
    """Return the mean nats per symbol of documents, each read from the zero state."""
    return _mean_nats(in_documents(model, ids_N, line_feed))


def _mean_nats(scored: Iterable[Scored]) -> float:
    nats, symbols = 0.0, 0
    for log_probabilities_N, targets_N in scored:
        nats -= float(log_probabilities_N.sum(dtype=np.float64))
        symbols += len(targets_N)
    return nats / symbols


def _side_by_side(model: Reader, ids_BC: Ids, targets_BC: Ids) -> Iterator[Scored]:
    """Score rows, each from the zero state."""
    state, chunk = model.zero_state(len(ids_BC)), _chunk(model, len(ids_BC))
    for start in range(0, ids_BC.shape[1], chunk):
        window = slice(start, start + chunk)
        scores_BT, state = _predict(model, ids_BC[:, window], targets_BC[:, window], state)
        wanted_BT = targets_BC[:, window] != IGNORED
        yield scores_BT[wanted_BT], targets_BC[:, window][wanted_BT]


def _chunk(model: Reader, rows: int) -> int:
    """Return how many symbols of each row to read at a time."""
    state = model.zero_state(1)
    logits_BTV, *_ = model(as_tensor(np.zeros((1, 1), dtype=np.int64), state), *state)
    return max(1, min(CHUNK, MOST_LOGITS // (rows * logits_BTV.shape[-1])))


def _from_zero(model: Reader, ids_N: Ids, vocabulary: Vocabulary, documents: Documents) -> Iterator[Scored]:
    if documents == "lines":
        return in_documents(model, ids_N, vocabulary.line_feed)
    first = first_character(ids_N, vocabulary)
    return in_one_piece(model, ids_N[:first], ids_N[first:])


def _read(model: Reader, ids_N: Ids, chunk: int) -> State:
    """Return the state after reading `ids_N` from the zero state."""
    state = model.zero_state(1)
    for start in range(0, len(ids_N), chunk):
        _, *after = model(as_tensor(ids_N[start : start + chunk][None], state), *state)
        state = tuple(after)
    return state


def _predict(model: Reader, ids_BT: Ids, targets_BT: Ids, state: State) -> tuple[NDArray[np.float32], State]:
    """Return ln P of each target (0 where IGNORED), and the state after `ids_BT`."""
    logits_BTV, *after = model(as_tensor(ids_BT, state), *state)
    targets = as_tensor(targets_BT, state).flatten()
    nats = cross_entropy(logits_BTV.flatten(0, 1).float(), targets, reduction="none", ignore_index=IGNORED)
    return -nats.view(targets_BT.shape).cpu().numpy(), tuple(after)


def as_tensor(ids: Ids, state: State) -> Tensor:
    """Return `ids` as int64 on the device of `state`."""
    return torch.from_numpy(ids.astype(np.int64)).to(state[0].device)


def _stop_dropout(model: Reader) -> None:
    if isinstance(model, nn.Module):
        model.eval()
