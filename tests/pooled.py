"""Graphs with states in pools, run as those with arrays are."""

from typing import Any

import numpy as np
import onnxruntime

Arrays = dict[str, np.ndarray]


def run_pooled(session: onnxruntime.InferenceSession, **feed: Any) -> Arrays:
    """Run from the states `h` and `c`; return the outputs with `h_out` and `c_out` instead of pools.

    The rows are in slots that are neither in order nor side by side, among states that no run may read.
    """
    h, c = feed.pop("h"), feed.pop("c")
    rows = h.shape[1]
    slots = np.random.default_rng(rows).permutation(3 * rows)
    before, after = slots[:rows], slots[rows : 2 * rows]
    names = [each.name.removesuffix("_pool") for each in session.get_inputs() if each.name.endswith("_pool")]
    pools = {part: np.full((3 * rows, h.shape[2]), np.nan, dtype=np.float32) for part in names}
    for part, pool in pools.items():
        pool[before] = {"h": h, "c": c}[part[0]][int(part[1:])]
    wanted = {each.name for each in session.get_inputs()}
    feed |= {f"{part}_pool": pool for part, pool in pools.items()} | {"before": before, "after": after}
    outputs = [each.name for each in session.get_outputs()]
    given = {name: value for name, value in feed.items() if name in wanted}
    found = dict(zip(outputs, session.run(outputs, given), strict=True))
    assert (found.pop("faults") == 0).all()
    for part in names:
        again = found[f"{part}_pool_out"]
        assert again[before].tobytes() == pools[part][before].tobytes(), "the states before the run"
        assert np.isnan(again[slots[2 * rows :]]).all(), "the states of others"
    return _with_states(found, names, c, after)


def _with_states(found: Arrays, names: list[str], c: np.ndarray, after: np.ndarray) -> Arrays:
    pools = {part: found.pop(f"{part}_pool_out") for part in names}
    by_kind = {kind: [part for part in names if part[0] == kind] for kind in "hc"}
    found["h_out"] = np.stack([pools[part][after] for part in by_kind["h"]])
    found["c_out"] = np.stack([pools[part][after] for part in by_kind["c"]]) if by_kind["c"] else c
    return found
