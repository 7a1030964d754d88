"""What the wire cannot carry, or would read as something else."""

import inspect
from typing import Any

import pytest
from charlm_client import AsyncClient, Client, InvalidRequest
from charlm_client.request import GenerationOptions, generate_request

DEFAULTS: dict[str, Any] = {
    "model": "",
    "version": 0,
    "ticket": None,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "biases": None,
    "allowed_characters": "",
    "forbidden_characters": "",
    "seed": None,
    "max_characters": 256,
    "stop": (),
    "log_probabilities": False,
    "top_alternatives": 0,
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
        ({"samples": 0}, "samples is 0; choose 1 to 64"),
        ({"samples": -1}, "samples is -1"),
        ({"top_alternatives": -1}, "top_alternatives is -1"),
        ({"biases": {"\udc80": 1.0}}, "biases holds"),
        ({"allowed_characters": "a\udc80"}, "allowed_characters holds"),
        ({"forbidden_characters": "a\udc80"}, "forbidden_characters holds"),
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


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_every_way_to_ask_for_a_text_knows_the_same_options_and_defaults(client: type) -> None:
    signature = inspect.signature(client.generate).parameters
    named = {name: parameter.default for name, parameter in signature.items()}
    assert {name: named[name] for name in DEFAULTS} == DEFAULTS
    assert set(named) - {"self", "prompt", "timeout"} == set(DEFAULTS) == set(GenerationOptions.__annotations__)
    defaults = {name: parameter.default for name, parameter in inspect.signature(generate_request).parameters.items()}
    assert {name: defaults[name] for name in DEFAULTS} == DEFAULTS


def test_no_biases_are_none_on_the_wire() -> None:
    assert generate_request("", biases={}) == generate_request("", biases=None) == generate_request("")
