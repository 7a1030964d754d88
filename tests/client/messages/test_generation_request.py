"""What the wire cannot carry, or would read as something else."""

import inspect
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from segue.v1 import common_pb2, generation_pb2
from segue_client import AsyncClient, Client, InvalidRequest, SessionReference
from segue_client.messages.generation_request import GenerationKeywords, GenerationOptions

DEFAULTS: dict[str, Any] = {
    "model": "",
    "version": 0,
    "ticket": None,
    "session": None,
    "exact": True,
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "biases": None,
    "allowed_characters": "",
    "forbidden_characters": "",
    "seed": None,
    "max_characters": 256,
    "stop": (),
    "written_before": "",
    "log_probabilities": False,
    "top_alternatives": 0,
    "unknown": "replace",
    "verbatim": False,
    "return_ticket": False,
    "ticket_interval": None,
}


def request(*, samples: int = 1, **options: Any) -> generation_pb2.GenerateRequest:
    return GenerationOptions(**options).to_request("", samples)


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
        ({"written_before": "a\udc80"}, "written_before holds"),
        ({"ticket_interval": -1}, "ticket_interval is -1"),
        ({"session": "\udc80"}, "session holds"),
        ({"session": SessionReference(name="s", position=-1)}, "position is -1"),
    ],
)
def test_a_field_out_of_its_range_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        request(**changed)


def test_one_stop_string_is_one_stop_string() -> None:
    assert list(request(stop="end").stop) == ["end"]


def test_zero_and_unset_are_different_on_the_wire() -> None:
    unset = request(**DEFAULTS)
    zero = request(seed=0, temperature=0.0)
    assert not unset.sampling.HasField("seed")
    assert not unset.HasField("start")
    for name in ("temperature", "top_k", "top_p", "min_p"):
        assert not unset.sampling.HasField(name), "what the ticket says is kept"
    assert zero.sampling.HasField("seed")
    assert zero.sampling.HasField("temperature")


def test_an_empty_ticket_is_no_fresh_start() -> None:
    assert request(ticket=b"").start.WhichOneof("from") == "ticket"


def test_the_options_of_a_text_are_listed_once_and_for_all() -> None:
    assert {field.name: field.default for field in fields(GenerationOptions)} == DEFAULTS
    hints = get_type_hints(GenerationOptions)
    assert get_type_hints(GenerationKeywords) == hints


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_every_option_of_a_text_is_described(client: type) -> None:
    described = inspect.getdoc(Client.generate)
    assert described
    assert not [name for name in DEFAULTS if name not in described]
    assert client.generate.__annotations__["options"] == client.generate_samples.__annotations__["options"]


def test_a_session_is_named_with_a_key_of_its_own_for_each_call() -> None:
    one, other = (request(session="mine").start.session for _ in range(2))
    assert one.name == "mine"
    assert not one.HasField("position")
    assert one.request_key != other.request_key
    assert len(one.request_key) == 32
    given = SessionReference(name="mine", position=0, request_key="k")
    start = request(session=given, exact=False).start
    assert start == common_pb2.Start(
        session=common_pb2.SessionReference(name="mine", position=0, request_key="k"), exact=False
    )


def test_a_text_goes_on_from_one_state() -> None:
    with pytest.raises(InvalidRequest, match="both"):
        request(ticket=b"t", session="mine")


def test_no_biases_are_none_on_the_wire() -> None:
    assert request(biases={}) == request(biases=None) == request()
