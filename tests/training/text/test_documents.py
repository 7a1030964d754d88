from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from segue_training.text import documents
from segue_training.text.documents import (
    IGNORED,
    bucketed,
    document_spans,
    padded,
    whole_documents,
    without_empty_lines,
)
from torch.nn.functional import cross_entropy

LINE_FEED = 1
ids_lists = st.lists(st.integers(0, 3), max_size=30)


def split(ids: list[int]) -> list[list[int]]:
    """Return the documents by splitting a string."""
    lines = "".join(map(str, ids)).split(str(LINE_FEED))
    return [list(map(int, line)) for line in lines if line]


@given(st.lists(st.text("a \n", max_size=4), max_size=6))
def test_empty_lines_vanish_and_no_other_character(blocks: list[str]) -> None:
    text = "".join(blocks)
    kept = "".join(without_empty_lines(blocks))
    assert kept.splitlines() == [line for line in text.splitlines() if line]
    assert kept.endswith("\n") == (text.endswith("\n") and kept != "")


@given(ids_lists, st.integers(1, 5))
def test_the_spans_are_the_documents(ids: list[int], block: int) -> None:
    ids_N = np.array(ids, dtype=np.uint8)
    with patch.object(documents, "BLOCK", block):
        spans = document_spans(ids_N, LINE_FEED)
    assert (spans.dtype, spans.shape[1]) == (np.int64, 2)
    assert [ids_N[start : start + length].tolist() for start, length in spans] == split(ids)


@given(ids_lists, st.integers(1, 5))
def test_whole_documents_end_with_the_last_line_feed(ids: list[int], block: int) -> None:
    with patch.object(documents, "BLOCK", block):
        whole = whole_documents(np.array(ids, dtype=np.uint8), LINE_FEED).tolist()
    assert whole == ids[: len(whole)]
    assert whole[-1:] in ([], [LINE_FEED])
    assert LINE_FEED not in ids[len(whole) :]


@given(st.lists(st.integers(1, 9), max_size=60), st.integers(1, 7), st.integers(0, 2**63 - 1))
def test_every_document_is_read_once_an_epoch(lengths: list[int], batch: int, seed: int) -> None:
    spans = np.array([(i, length) for i, length in enumerate(lengths)], dtype=np.int64).reshape(-1, 2)
    with patch.object(documents, "POOL", 3):
        groups = list(bucketed(spans, batch, seed))
        again = list(bucketed(spans, batch, seed))
    assert sorted(tuple(span) for group in groups for span in group.tolist()) == sorted(map(tuple, spans.tolist()))
    assert (
        sorted(map(len, groups), reverse=True)
        == [batch] * (len(spans) // batch) + [len(spans) % batch][: len(spans) % batch]
    )
    assert all(np.array_equal(*pair) for pair in zip(groups, again, strict=True))


def test_groups_are_alike_in_length_and_in_another_order_each_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 101, size=4096)
    spans = np.stack([np.cumsum(lengths), lengths], axis=1)
    first, second = (list(bucketed(spans, 16, seed)) for seed in (1, 2))
    padding = sum(int((group[:, 1].max() - group[:, 1]).sum()) for group in first)
    assert padding < 0.05 * lengths.sum()
    means = [group[:, 1].mean() for group in first]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.2
    assert {tuple(map(tuple, group)) for group in first}.isdisjoint(tuple(map(tuple, group)) for group in second)


def test_a_row_is_a_document_between_line_feeds() -> None:
    ids_N = np.array([5, 6, 7, LINE_FEED, 8, LINE_FEED], dtype=np.uint8)
    inputs_BT, targets_BT = padded(ids_N, np.array([[0, 3], [4, 1]]), LINE_FEED)
    assert inputs_BT.tolist() == [[1, 5, 6, 7], [1, 8, 0, 0]]
    assert targets_BT.tolist() == [[5, 6, 7, 1], [8, 1, IGNORED, IGNORED]]
    assert inputs_BT.dtype == targets_BT.dtype == np.int64


def test_what_is_ignored_is_what_torch_ignores() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert cross_entropy(logits, torch.tensor([1, IGNORED])) == pytest.approx(
        float(cross_entropy(logits[:1], torch.tensor([1])))
    )
