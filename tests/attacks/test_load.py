"""Too much work, heavy work and abandoned work leave the server its own."""

import pytest

from attacks.catalogue import LOAD, Attack


@pytest.mark.parametrize("attack", LOAD.small, ids=str)
def test_the_server_does_what_it_can(attack: Attack, missed_bars: list[str]) -> None:
    assert not missed_bars, attack
