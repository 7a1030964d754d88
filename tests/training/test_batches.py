from collections import Counter
from itertools import islice, pairwise

import pytest
import torch
from charlm_training.batches import Minibatch, hide, minibatches, partition
from hypothesis import given
from hypothesis import strategies as st

sizes = st.integers(1, 9)


@given(length=st.integers(60, 300), batch=sizes, time=sizes, data=st.data())
def test_every_character_after_the_offset_is_a_target_exactly_once(
    length: int, batch: int, time: int, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(0, time - 1))
    seen = Counter[int]()
    for ids, targets in partition(torch.arange(length), batch, time, offset):
        assert torch.equal(targets, ids + 1)
        assert ids.shape[0] == batch
        seen.update(targets.flatten().tolist())
    left_out = (length - offset - 1) % batch
    assert seen == Counter(range(offset + 1, length - left_out))


@given(length=st.integers(60, 300), batch=sizes, time=sizes)
def test_rows_go_on_where_the_minibatch_before_ended(length: int, batch: int, time: int) -> None:
    for (_, before), (ids, _) in pairwise(partition(torch.arange(length), batch, time, 0)):
        assert torch.equal(before[:, -1], ids[:, 0])


def stream(reset_rate: float, unknown_rate: float, count: int, seed: int = 0) -> list[Minibatch]:
    """`count` minibatches of 4 rows of 8 of the ids 1, 2, ...; a pass has 4 of them."""
    ids = torch.arange(1, 132)
    generator = torch.Generator().manual_seed(seed)
    every = minibatches(ids, 4, 8, reset_rate=reset_rate, unknown_rate=unknown_rate, generator=generator)
    return list(islice(every, count))


def test_the_state_is_carried_within_a_pass_and_reset_between_passes() -> None:
    for before, minibatch in pairwise(stream(0.0, 0.0, 60)):
        goes_on = bool((minibatch.ids_BT[:, 0] == before.targets_BT[:, -1]).all())
        assert minibatch.keep_B.tolist() == [float(goes_on)] * 4


def test_passes_begin_at_different_offsets() -> None:
    assert len({int(m.ids_BT[0, 0]) for m in stream(0.0, 0.0, 60) if not m.keep_B.any()}) > 4


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_rows_are_reset_at_the_rate_asked_for(rate: float) -> None:
    without, reset = stream(0.0, 0.0, 2000), stream(rate, 0.0, 2000)
    carried = torch.stack([m.keep_B for m in without]) > 0
    kept = torch.stack([m.keep_B for m in reset])[carried]
    assert 1 - kept.mean() == pytest.approx(rate, abs=0.02)


def test_hidden_characters_are_unknown_as_input_and_as_target() -> None:
    for before, minibatch in pairwise(stream(0.0, 0.3, 60)):
        assert torch.equal(minibatch.ids_BT[:, 1:], minibatch.targets_BT[:, :-1])
        if minibatch.keep_B.any():
            assert torch.equal(minibatch.ids_BT[:, 0], before.targets_BT[:, -1])


def test_characters_are_hidden_at_the_rate_asked_for() -> None:
    hidden = hide(torch.ones(200_000, dtype=torch.int64), 1e-2, torch.Generator().manual_seed(1))
    assert int((hidden == 0).sum()) == pytest.approx(2000, abs=200)
    assert set(hidden.tolist()) == {0, 1}
