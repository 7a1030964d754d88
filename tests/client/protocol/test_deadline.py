"""Time limits, long ones and none."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from segue_client import InvalidRequest
from segue_client.protocol.deadline import Deadline


@given(some.floats(min_value=1, allow_nan=False, allow_infinity=True))
def test_a_longer_limit_never_leaves_less_time(timeout: float) -> None:
    left, less = Deadline.after(timeout).left, Deadline.after(timeout / 2).left
    assert left is None or (less is not None and 0 < less <= left <= timeout)
    assert left is None or left < 7e9, "what gRPC's clock can hold"


def test_infinite_is_none() -> None:
    assert Deadline.after(math.inf).left is None
    assert Deadline.after(None).left is None


def test_a_limit_that_has_passed_leaves_nothing() -> None:
    assert Deadline.after(0).left == 0


@pytest.mark.parametrize("timeout", [math.nan, "5", b"", -1, -math.inf])
def test_what_is_no_number_of_seconds_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^timeout is .*; choose a number of seconds$"):
        Deadline.after(timeout)
