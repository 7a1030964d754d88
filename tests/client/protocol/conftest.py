"""What the tests of retries share."""

import pytest
from hand_set_clock import HandSetClock


@pytest.fixture
def clock() -> HandSetClock:
    """At 0."""
    return HandSetClock()
