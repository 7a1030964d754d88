"""Pools of states: each row keeps its own, whatever comes and goes beside it, and nothing is lost or kept."""

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_export.manifest import Manifest
from segue_server.engine.model import Model
from segue_server.engine.runners.accelerator import SimulatedAccelerator
from segue_server.engine.runners.device_runner import DeviceRunner
from segue_server.engine.runners.pools import PADDING_SLOT, Pools
from segue_server.engine.runners.runner import Writing
from segue_server.engine.sampling import Sampling, SamplingRows

STEPS = st.lists(
    st.tuples(st.sampled_from(["scatter", "take", "join", "drop"]), st.integers(0, 5), st.integers(0, 10**6)),
    max_size=40,
)


@pytest.fixture(scope="module")
def runner(models: dict[str, Model]) -> DeviceRunner:
    """A runner whose pools, of 25 slots, are soon full."""
    found = models["characters on a device"]._runner
    assert isinstance(found, DeviceRunner)
    return found


def states(runner: DeviceRunner, seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    shape = (2, runner._manifest.layers, rows, runner._manifest.hidden)
    h, c = generator.uniform(-1, 1, shape).astype(np.float32)
    return h, c


@given(steps=STEPS)
@settings(max_examples=40)
def test_rows_hold_their_states_until_nobody_has_them(runner: DeviceRunner, steps: list[tuple[str, int, int]]) -> None:
    free, expected, rows = runner._pools.free, list[np.ndarray](), list[Any]()
    size = len(runner._pools)
    for what, count, seed in steps:
        generator = np.random.default_rng(seed)
        if what == "scatter" or not rows:
            h, c = states(runner, seed, 1 + 3 * count)
            rows.append(runner.scatter(h, c))
            expected.append(np.stack([h, c]))
            continue
        at = int(generator.integers(len(rows)))
        if what == "drop":
            del rows[at], expected[at]
        elif what == "take":
            chosen = generator.integers(max(1, len(rows[at])), size=min(count, len(rows[at])))
            rows.append(rows[at].take(chosen))
            expected.append(expected[at][:, :, chosen])
        else:
            other = int(generator.integers(len(rows)))
            rows.append(rows[at].join(rows[other]))
            expected.append(np.concatenate([expected[at], expected[other]], axis=2))
    for held, before in zip(rows, expected, strict=True):
        assert len(held) == before.shape[2]
        assert np.stack(runner.gather(held)).tobytes() == before.tobytes()
    held = None
    rows.clear()
    gc.collect()
    assert runner._pools.free - free == len(runner._pools) - size, "slots that nobody has are free"


def test_a_run_leaves_the_states_before_it_as_they_were(runner: DeviceRunner) -> None:
    """Also when it is recorded, has many parts, and the pools grow in between."""
    vocabulary = len(runner._manifest.vocabulary)
    for rows in (1, 3, 8, 20):
        h, c = states(runner, rows, rows)
        before = runner.scatter(h, c)
        sampling = SamplingRows([Sampling()] * rows, np.zeros(vocabulary, dtype=np.float32))
        uniform = np.random.default_rng(rows).random((37, rows)).astype(np.float32)
        ones = np.ones(rows, dtype=np.int64)
        writing = Writing(ones, np.zeros(rows, dtype=np.int64), sampling, uniform, filtered=False, scored=True)
        first, second = runner.write(before, writing), runner.write(before, writing)
        assert first.ids_KB.tobytes() == second.ids_KB.tobytes()
        assert np.stack(runner.gather(first.rows)).tobytes() == np.stack(runner.gather(second.rows)).tobytes()
        assert np.stack(runner.gather(before)).tobytes() == np.stack([h, c]).tobytes()


def test_pools_that_are_full_grow_and_their_states_stay(runner: DeviceRunner) -> None:
    pools = Pools(runner._manifest, SimulatedAccelerator(), slots=4)
    values = [pools.value("h0_pool"), pools.value("h0_pool_out")]
    assert values[0] is values[1] is not None
    np.asarray(values[0].numpy())[1:] = 7
    held, generation = pools.allocate(3), pools.generation
    assert (pools.free, sorted(held.slots_B.tolist())) == (0, [1, 2, 3])
    more = pools.allocate(9)
    assert pools.generation == generation + 1, "what was recorded with the old addresses is of no use"
    assert len(pools) == 13
    assert PADDING_SLOT not in {*held.slots_B.tolist(), *more.slots_B.tolist()}
    assert not set(held.slots_B.tolist()) & set(more.slots_B.tolist())
    grown = pools.value("h0_pool").numpy()
    assert (grown[1:4] == 7).all()
    assert (grown[4:] == 0).all()
    assert pools.value("tokens") is None


def test_pools_grow_by_what_is_missing_or_to_twice_their_size(runner: DeviceRunner) -> None:
    pools = Pools(runner._manifest, SimulatedAccelerator(), slots=4)
    first, second = pools.allocate(1), pools.allocate(4)
    assert len(pools) == 8, "two were missing"
    third = pools.allocate(20)
    assert len(pools) == 26, "eighteen were missing"
    held = [*first.slots_B.tolist(), *second.slots_B.tolist(), *third.slots_B.tolist()]
    assert len(set(held)) == 25


def test_a_pool_has_as_many_parts_as_a_state(models: dict[str, Model]) -> None:
    manifest: Manifest = models["gru"].manifest
    pools = Pools(manifest, SimulatedAccelerator(), slots=2)
    assert pools.value("h1_pool") is not None
    assert pools.value("c0_pool") is None
