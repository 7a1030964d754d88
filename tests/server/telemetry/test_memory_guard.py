"""The guard of the memory that is really used."""

import asyncio

from segue_server.runtime.admission import Admission, Capacity
from segue_server.telemetry.memory_guard import MemoryGuard, resident_bytes


async def test_admission_learns_that_memory_is_short_and_that_it_no_longer_is() -> None:
    admission, used = Admission(Capacity(2**30, 100), 2.0), 99
    guard = MemoryGuard(admission, 100, used=lambda: used)
    try:
        assert not admission.is_memory_short
        for now, short in ((101, True), (100, False)):
            used = now
            async with asyncio.timeout(30):
                while admission.is_memory_short is not short:
                    await asyncio.sleep(0.05)
    finally:
        guard.stop()


def test_the_memory_of_this_process_is_seen() -> None:
    before = resident_bytes()
    block = bytearray(b"x") * 200_000_000
    assert resident_bytes() - before > 150_000_000
    assert block
