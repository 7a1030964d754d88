"""When cycles that have outlived the young generations are collected."""

import asyncio
import gc
import weakref

from segue_server.runtime.garbage import IdleCollection


class Node:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def old_cycle() -> "weakref.ref[Node]":
    node = Node()
    for _ in range(2):
        gc.collect(1)  # it is alive, so it moves to the oldest generation
    return weakref.ref(node)


async def test_old_cycles_wait_until_nobody_is_served() -> None:
    before, busy = gc.get_threshold(), True
    collection = IdleCollection(lambda: busy, between=0.01)
    try:
        cycle = old_cycle()
        kept = [[number] for number in range(200_000)]  # allocations enough for several full collections
        await asyncio.sleep(0.1)
        assert cycle() is not None
        busy = False
        async with asyncio.timeout(60):
            while cycle() is not None:
                await asyncio.sleep(0.01)
        assert len(kept) == 200_000
    finally:
        collection.stop()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


async def test_old_cycles_of_a_server_that_is_never_idle_wait_no_longer_than_a_while() -> None:
    collection = IdleCollection(lambda: True, between=0.01, longest=0.05)
    try:
        cycle = old_cycle()
        async with asyncio.timeout(60):
            while cycle() is not None:
                await asyncio.sleep(0.01)
    finally:
        collection.stop()


async def test_young_cycles_do_not_wait() -> None:
    collection = IdleCollection(lambda: True)
    try:
        cycle = weakref.ref(Node())
        kept = [[number] for number in range(10_000)]
        assert cycle() is None
        assert len(kept) == 10_000
    finally:
        collection.stop()


async def test_no_collection_before_the_full_one_looks_at_many_objects() -> None:
    looked_at = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] < 2:
            looked_at.append(sum(len(gc.get_objects(generation)) for generation in range(info["generation"] + 1)))

    collection = IdleCollection(lambda: True)
    gc.callbacks.append(note)
    try:
        kept = [[number] for number in range(100_000)]  # all outlive their collections
    finally:
        gc.callbacks.remove(note)
        collection.stop()
    assert len(kept) == 100_000
    assert len(looked_at) > 10
    assert max(looked_at) < 10_000
