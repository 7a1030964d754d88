"""No client and no tenant takes what belongs to all."""

import pytest

from attacks.catalogue import SHARES, Attack


@pytest.mark.parametrize("attack", SHARES.small, ids=str)
def test_the_others_are_served(attack: Attack, missed_bars: list[str]) -> None:
    assert not missed_bars, attack
