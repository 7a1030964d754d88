"""Whatever is sent, only the sender notices."""

import pytest

from attacks.catalogue import MESSAGES, Attack


@pytest.mark.parametrize("attack", MESSAGES.small, ids=str)
def test_what_is_wrong_is_refused_and_forgotten(attack: Attack, missed_bars: list[str]) -> None:
    assert not missed_bars, attack
