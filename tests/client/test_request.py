"""What the wire cannot carry, or would read as something else."""

from typing import Any

import pytest
from charlm_client import InvalidRequest
from charlm_client.request import generate_request

DEFAULTS: dict[str, Any] = {
    "model": "",
    "version": 0,
    "ticket": None,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": None,
    "max_characters": 256,
    "stop": (),
    "log_probabilities": False,
    "unknown": "replace",
    "return_ticket": False,
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_characters": 0}, "max_characters is 0"),
        ({"max_characters": -1}, "max_characters is -1"),
        ({"max_characters": 2**32}, "max_characters is 4294967296"),
        ({"top_k": -1}, "top_k is -1"),
        ({"version": -1}, "version is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"unknown": "ignore"}, "'ignore'; choose one of replace, refuse"),
        ({"stop": ["a\udc80"]}, "stop holds"),
        ({"model": "\udc80"}, "model holds"),
    ],
)
def test_a_field_out_of_its_range_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        generate_request("", **{**DEFAULTS, **changed})


def test_one_stop_string_is_one_stop_string() -> None:
    assert list(generate_request("", **{**DEFAULTS, "stop": "end"}).stop) == ["end"]


def test_zero_and_unset_are_different_on_the_wire() -> None:
    unset = generate_request("", **DEFAULTS)
    zero = generate_request("", **{**DEFAULTS, "seed": 0, "temperature": 0.0})
    assert not unset.sampling.HasField("seed")
    assert not unset.HasField("start")
    assert zero.sampling.HasField("seed")
    assert zero.sampling.HasField("temperature")


def test_an_empty_ticket_is_no_fresh_start() -> None:
    assert generate_request("", **{**DEFAULTS, "ticket": b""}).start.WhichOneof("from") == "ticket"
