from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from segue_training.data.batches import IGNORED, Minibatch, epoch, hidden, random_positions, stream_positions
from segue_training.recipes import TrainingConfig, small

sizes = st.integers(1, 9)

PLAIN = replace(small(), batch=4, time=8, reset_rate=0.0, unknown_rate=0.0)
COUNTING = np.arange(1, 132, dtype=np.uint8)


@given(length=st.integers(60, 300), batch=sizes, time=sizes, data=st.data())
def test_every_symbol_after_the_offset_is_a_target_exactly_once(
    length: int, batch: int, time: int, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(0, time - 1))
    seen = Counter[int]()
    for positions in stream_positions(length, batch, time, offset):
        assert positions.shape[0] == batch
        seen.update((positions + 1).ravel().tolist())
    left_out = (length - offset - 1) % batch
    assert seen == Counter(range(offset + 1, length - left_out))


@given(length=st.integers(60, 300), batch=sizes, time=sizes)
def test_rows_go_on_where_the_minibatch_before_ended(length: int, batch: int, time: int) -> None:
    for before, positions in pairwise(stream_positions(length, batch, time, 0)):
        assert np.array_equal(before[:, -1] + 1, positions[:, 0])


@given(length=st.integers(60, 300), batch=sizes, time=sizes, seed=st.integers(0, 99), data=st.data())
def test_random_windows_are_full_do_not_overlap_and_stay_in_the_text(
    length: int, batch: int, time: int, seed: int, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(0, time - 1))
    windows = list(random_positions(length, batch, time, offset, seed))
    assert all(window.shape == (batch, time) for window in windows)
    read = np.concatenate([window.ravel() for window in windows] or [np.zeros(0, dtype=int)])
    assert len(set(read.tolist())) == len(read)
    assert all(offset <= position < length - 1 for position in read)
    assert len(windows) == (length - offset - 1) // time // batch


def test_d2l_reads_eight_minibatches_of_32_by_35_of_ten_thousand_letters() -> None:
    for partition in ("sequential", "random"):
        config = replace(small(), batch=32, time=35, partition=partition)
        for number in range(20):
            minibatches = list(epoch(np.ones(10_000, dtype=np.uint8), config, number, 0))
            assert [m.ids_BT.shape for m in minibatches] == [(32, 35)] * 8
            assert not minibatches[0].keep_B.any()
            assert all(m.keep_B.any() == (partition == "sequential") for m in minibatches[1:])


def stream(config: TrainingConfig, epochs: int = 15) -> list[Minibatch]:
    """Minibatches of 4 rows with 8 of the ids 1, 2, ...; 4 per epoch."""
    return [m for number in range(epochs) for m in epoch(COUNTING, config, number, 0)]


def test_the_state_is_carried_within_an_epoch_and_reset_between_epochs() -> None:
    for before, minibatch in pairwise(stream(PLAIN)):
        goes_on = bool((minibatch.ids_BT[:, 0] == before.targets_BT[:, -1]).all())
        assert minibatch.keep_B.tolist() == [float(goes_on)] * 4


def test_epochs_begin_at_different_offsets() -> None:
    assert len({int(m.ids_BT[0, 0]) for m in stream(PLAIN) if not m.keep_B.any()}) > 4


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_rows_are_reset_at_the_rate_asked_for(rate: float) -> None:
    without, reset = stream(PLAIN, 500), stream(replace(PLAIN, reset_rate=rate), 500)
    carried = torch.stack([m.keep_B for m in without]) > 0
    kept = torch.stack([m.keep_B for m in reset])[carried]
    assert 1 - kept.mean() == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize("partition", ["stream", "sequential"])
def test_hidden_characters_are_unknown_as_input_and_as_target(partition: str) -> None:
    for before, minibatch in pairwise(stream(replace(PLAIN, unknown_rate=0.3, partition=partition))):
        assert torch.equal(minibatch.ids_BT[:, 1:], minibatch.targets_BT[:, :-1])
        if minibatch.keep_B.any():
            assert torch.equal(minibatch.ids_BT[:, 0], before.targets_BT[:, -1])


@pytest.mark.parametrize("rate", [1e-2, 0.5])
def test_characters_are_hidden_at_the_rate_asked_for_and_others_in_each_epoch(rate: float) -> None:
    first, second = (hidden(np.arange(200_000), rate, seed) for seed in (2**63 - 1, 5))
    for drawn in (first, second):
        assert drawn.mean() == pytest.approx(rate, rel=0.1)
    assert (first & second).mean() == pytest.approx(rate**2, rel=0.5)


def test_bytes_are_never_hidden() -> None:
    assert all(m.ids_BT.all() for m in stream(replace(PLAIN, unknown_rate=0.5, alphabet="bytes")))


@given(st.integers(0, 50))
def test_an_epoch_is_a_function_of_its_number(number: int) -> None:
    config = replace(PLAIN, reset_rate=0.3, unknown_rate=0.3)
    once, again = (list(epoch(COUNTING, config, number, 0)) for _ in range(2))
    for a, b in zip(once, again, strict=True):
        assert torch.equal(a.ids_BT, b.ids_BT)
        assert torch.equal(a.keep_B, b.keep_B)


LINE_FEED = 1
DOCUMENTS = [[2], [3, 4], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [2, 2, 2], [3], [4], [5], [9, 8, 7, 6, 5]]


@pytest.mark.parametrize("time", [3, 100])
def test_documents_are_read_from_a_line_feed_in_the_zero_state_to_a_line_feed(time: int) -> None:
    ids = np.array([symbol for document in DOCUMENTS for symbol in (*document, LINE_FEED)], dtype=np.uint8)
    config = replace(PLAIN, documents="lines", time=time, batch=3)
    found: list[list[int]] = []
    rows: list[list[int]] = []
    for minibatch in islice(epoch(ids, config, 3, LINE_FEED), None):
        if not minibatch.keep_B.any():
            found, rows = found + rows, [[] for _ in minibatch.ids_BT]
            assert (minibatch.ids_BT[:, 0] == LINE_FEED).all()
        for row, targets in zip(rows, minibatch.targets_BT.tolist(), strict=True):
            row.extend(target for target in targets if target != IGNORED)
    assert sorted(found + rows) == sorted([*document, LINE_FEED] for document in DOCUMENTS)


def test_hidden_characters_of_documents_are_unknown_as_input_and_as_target_and_ends_never() -> None:
    ids = np.array([symbol for document in DOCUMENTS for symbol in (*document, LINE_FEED)] * 20, dtype=np.uint8)
    config = replace(PLAIN, documents="lines", time=100, unknown_rate=0.4)
    ends = 0
    for minibatch in epoch(ids, config, 0, LINE_FEED):
        inputs, targets = minibatch.ids_BT[:, 1:], minibatch.targets_BT[:, :-1]
        read = (targets != IGNORED) & (targets != LINE_FEED)
        assert torch.equal(inputs[read], targets[read])
        ends += int((minibatch.targets_BT == LINE_FEED).sum())
    assert ends == len(DOCUMENTS) * 20


def test_the_parts_of_a_minibatch_are_its_rows() -> None:
    (minibatch, *_) = stream(replace(PLAIN, reset_rate=0.5))
    parts = [minibatch.rows(part, 2) for part in range(2)]
    assert torch.equal(torch.cat([part.targets_BT for part in parts]), minibatch.targets_BT)
    assert torch.equal(torch.cat([part.keep_B for part in parts]), minibatch.keep_B)
