"""What clients make the server hold is bounded."""

import pytest

from attacks.catalogue import MEMORY, Attack


@pytest.mark.parametrize("attack", MEMORY.small, ids=str)
def test_memory_stays_bounded(attack: Attack, missed_bars: list[str]) -> None:
    assert not missed_bars, attack
