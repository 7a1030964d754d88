"""The states of all sequences on a device: a pool for each part of a state, and who has which of its slots.

States never change: a run reads some slots and writes others, which nobody has. So the states before a run are there as
long as somebody has them, and a run that is repeated changes nothing that it reads.
"""

# Shape suffixes: L layers, B rows, H hidden, S slots.

from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from segue_export.graphs.step import state_parts
from segue_export.manifest import Manifest

from segue_server.engine.runners.accelerator import Accelerator
from segue_server.engine.sampling import Floats32, Ids

_FREE: Final = -1
PADDING_SLOT: Final = 0
"""Read and written by the rows that fill a batch up. What is in it means nothing."""


class PoolRows:
    """The states of some rows, each in a slot. The slots are free again when nobody has them any more."""

    def __init__(self, pools: "Pools", slots_B: Ids) -> None:
        """Only for `Pools`, which counts who has a slot."""
        self._pools = pools
        self.slots_B = slots_B

    def __del__(self) -> None:
        self._pools.give_back(self.slots_B)

    def __len__(self) -> int:
        return len(self.slots_B)

    def take(self, at: Ids) -> "PoolRows":
        """Return the states of some rows."""
        return self._pools.share(self.slots_B[at])

    def join(self, other: "PoolRows") -> "PoolRows":
        """Return these states and those of `other`."""
        return self._pools.share(np.concatenate([self.slots_B, other.slots_B]))


class Pools:
    """The pools of one model. They grow when they are full."""

    def __init__(self, manifest: Manifest, device: Accelerator, slots: int) -> None:
        """`slots`: to begin with."""
        self._parts = state_parts(manifest)
        self._hidden = manifest.hidden
        self._device = device
        self.generation = 0
        """Changes when the pools have moved, and with them the addresses that a graph was recorded with."""
        self._values = {part: device.store(self._zeros(slots)) for part in self._parts}
        self._holders_S = np.full(slots, _FREE)
        """How many `PoolRows` have each slot, or _FREE."""
        self._holders_S[PADDING_SLOT] = 1
        self._free = np.arange(slots - 1, PADDING_SLOT, -1)
        """The free slots; the last are the next to be taken."""

    def __len__(self) -> int:
        """How many slots there are."""
        return len(self._holders_S)

    @property
    def free(self) -> int:
        """How many slots nobody has."""
        return len(self._free)

    def value(self, name: str) -> onnxruntime.OrtValue | None:
        """Return the pool that a graph's input or output of this name is bound to; None if it is no pool."""
        return self._values.get(name.removesuffix("_out").removesuffix("_pool")) if "_pool" in name else None

    def allocate(self, rows: int) -> PoolRows:
        """Return free slots for states to be written."""
        if rows > self.free:
            self._grow(rows - self.free)
        self._free, taken = np.split(self._free, [self.free - rows])
        self._holders_S[taken] = 0
        return self.share(taken)

    def share(self, slots_B: Ids) -> PoolRows:
        """Return the states in some slots."""
        np.add.at(self._holders_S, slots_B, 1)
        return PoolRows(self, slots_B)

    def give_back(self, slots_B: Ids) -> None:
        """Take note that one `PoolRows` is gone."""
        np.subtract.at(self._holders_S, slots_B, 1)
        freed = np.flatnonzero(self._holders_S == 0)
        self._holders_S[freed] = _FREE
        self._free = np.concatenate([self._free, freed])

    def _grow(self, least: int) -> None:
        """Add `least` slots, or as many as there are."""
        added = max(least, len(self))
        for part, value in self._values.items():
            grown = np.concatenate([self._device.fetch(value), self._zeros(added)])
            self._values[part] = self._device.store(grown)
        self._free = np.concatenate([np.arange(len(self) + added - 1, len(self) - 1, -1), self._free])
        self._holders_S = np.concatenate([self._holders_S, np.full(added, _FREE)])
        self.generation += 1

    def _zeros(self, slots: int) -> NDArray[np.float32]:
        return np.zeros((slots, self._hidden), dtype=np.float32)


def parts_of(h_LBH: Floats32, c_LBH: Floats32, manifest: Manifest) -> dict[str, Floats32]:
    """Return the parts of states by name, [B, H] each."""
    kinds = {"h": h_LBH, "c": c_LBH}
    return {part: kinds[part[0]][int(part[1:])] for part in state_parts(manifest)}


def joined_parts(parts: dict[str, Floats32], manifest: Manifest) -> tuple[Floats32, Floats32]:
    """Return h and c, [L, B, H], of parts by name; without a memory cell, c is zero."""
    h_LBH = np.stack([parts[f"h{k}"] for k in range(manifest.layers)])
    if "c0" not in parts:
        return h_LBH, np.zeros_like(h_LBH)
    return h_LBH, np.stack([parts[f"c{k}"] for k in range(manifest.layers)])
