"""What a caller may pass: long times, and what is of the wrong kind."""

import math
import pickle
import re
from typing import Any

import pytest
from segue.v1 import common_pb2, scoring_pb2
from segue_client import AsyncClient, Client, DeadlineExceeded, InvalidRequest

NO_NAME = "session is NamedSession, not the name of one; call the methods of a session, or pass its name"


class NamedSession:
    """Stands for a session, which has a name, too."""

    name = "s"


@pytest.mark.parametrize("seconds", [7e9, 8e9, 1e12, math.inf])
async def test_a_very_long_timeout_is_none(peer: Any, make_face: Any, seconds: float) -> None:
    face = make_face(peer.address, timeout=seconds)
    assert await face.whole("Say: ") == "Hello"
    assert (await face.call("score", "abc", timeout=seconds)).scored_count == 2


async def test_a_timeout_that_has_passed_reaches_no_server(peer: Any, face: Any) -> None:
    for method, argument in (("generate", ""), ("score", "abc")):
        with pytest.raises(DeadlineExceeded):
            await face.call(method, argument, timeout=0)
    assert not peer.requests


async def test_what_is_no_time_is_refused(peer: Any, face: Any) -> None:
    for method, argument in (("generate", ""), ("score", "abc")):
        for seconds in (math.nan, -1, -0.5, -math.inf):
            with pytest.raises(InvalidRequest, match=f"timeout is {seconds}; choose"):
                await face.call(method, argument, timeout=seconds)
    for field in ("timeout", "resume_seconds"):
        for seconds in (math.nan, -1):
            with pytest.raises(InvalidRequest, match=f"{field} is {seconds}; choose"):
                Client(peer.address, **{field: seconds})


@pytest.mark.parametrize(
    ("method", "arguments", "options", "message"),
    [
        ("score", (float("nan"),), {}, "text is float, not str"),
        ("score_many", (["ok", float("nan")],), {}, "texts[1] is float, not str"),
        ("score_many", (["ok", None],), {}, "texts[1] is NoneType, not str"),
        ("score_candidates", ("ok", ["a", 1]), {}, "candidate is int, not str"),
        ("generate", (1,), {}, "prompt is int, not str"),
        ("generate", ("",), {"temperature": "hot"}, "temperature is 'hot', not a number"),
        ("generate", ("",), {"top_k": 1.5}, "top_k is 1.5, not a whole number"),
        ("generate", ("",), {"seed": "x"}, "seed is 'x', not a whole number"),
        ("generate", ("",), {"seed": 1.5}, "seed is 1.5, not a whole number"),
        ("generate", ("",), {"seed": -1}, "seed is -1; choose 0 to 18,446,744,073,709,551,615"),
        ("generate", ("",), {"max_characters": None}, "max_characters is None; choose 1 to 1,000,000"),
        ("generate", ("",), {"max_characters": -1}, "max_characters is -1; choose 1 to 1,000,000"),
        ("generate", ("",), {"max_characters": 0}, "max_characters is 0; choose 1 to 1,000,000"),
        ("generate_samples", ("", 1.5), {}, "samples is 1.5; choose 1 to 64"),
        ("generate", ("",), {"biases": [("a", 1)]}, "biases is list, not a dict of characters and their biases"),
        ("generate", ("",), {"stop": None}, "stop is None; pass a list of texts, or another iterable of them"),
        ("generate", ("",), {"stop": 5}, "stop is 5; pass a list of texts, or another iterable of them"),
        ("score_many", (None,), {}, "texts is None; pass a list of texts, or another iterable of them"),
        ("score_many", (None,), {"session": "s"}, "texts is None; pass a list of texts, or another iterable of them"),
        ("score_many", (["a"],), {"jobs": None}, "jobs is None; choose 1 or more"),
        ("score_candidates", ("a", None), {}, "candidates is None; pass a list of texts, or another iterable of them"),
        ("score_candidates", ("a", 5), {}, "candidates is 5; pass a list of texts, or another iterable of them"),
        ("generate", ("",), {"session": NamedSession()}, NO_NAME),
        ("generate_samples", ("", 2), {"session": NamedSession()}, NO_NAME),
        ("score", ("a",), {"session": NamedSession()}, NO_NAME),
        ("generate", ("",), {"biases": {"a": None}}, "biases is None, not a number"),
        ("generate", ("",), {"ticket": "text"}, "ticket is str, not bytes"),
    ],
)
async def test_what_is_of_the_wrong_kind_is_named(
    face: Any, method: str, arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(message)}$"):
        await face.call(method, *arguments, **options)


@pytest.mark.parametrize(
    ("method", "arguments", "option", "advice"),
    [
        ("generate", ("",), "max_tokens", "; did you mean max_characters?"),
        ("generate_samples", ("", 2), "temprature", "; did you mean temperature?"),
        ("generate", ("",), "quux", ""),
        ("score", ("a",), "return_tickets", "; did you mean return_ticket?"),
        ("score_many", (["a"],), "return_ticket", "; did you mean return_tickets?"),
        ("score_candidates", ("a", ["b"]), "log_probs", "; did you mean log_probabilities?"),
    ],
)
async def test_a_misspelt_option_is_named_with_the_likeliest_one(
    face: Any, method: str, arguments: tuple[Any, ...], option: str, advice: str
) -> None:
    message = f"{method} got an unexpected keyword argument {option!r}{advice}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        await face.call(method, *arguments, **{option: 3})


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_misspelt_options_of_lazy_calls_are_named_at_once(kind: Any) -> None:
    client = kind("127.0.0.1:1")
    for method in ("score_each", "try_score_each", "score_stream"):
        with pytest.raises(TypeError, match=f"{method} got an unexpected keyword argument 'modle'; did you mean model"):
            getattr(client, method)(["a"], modle="b")
    with pytest.raises(InvalidRequest, match=r"^text is None; pass a list of texts"):
        client.score_stream(None)


@pytest.mark.parametrize("kind", [set, iter, tuple, dict.fromkeys])
async def test_candidates_come_from_any_iterable(peer: Any, face: Any, kind: Any) -> None:
    def score(request: Any) -> Any:
        assert sorted(request.candidates) == ["b", "c"]
        return scoring_pb2.ScoreCandidatesResponse(
            policies=scoring_pb2.ScoringPolicies(
                unknown=common_pb2.UNKNOWN_POLICY_REPLACE,
                begin=scoring_pb2.BEGIN_POLICY_NOTHING,
                end=scoring_pb2.END_POLICY_NOTHING,
            ),
            candidates=[scoring_pb2.CandidateScore(index=index) for index in (1, 0)],
        )

    peer.score_candidates = score
    ranking = await face.call("score_candidates", "a", kind(["b", "c"]))
    assert sorted(each.text for each in ranking.candidates) == ["b", "c"]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("address", [56300, None, b"127.0.0.1:1"])
def test_what_is_no_address_is_refused(kind: Any, address: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^the server's address is {re.escape(repr(address))}; name one, such as"):
        kind(address)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_shows_its_addresses(kind: Any) -> None:
    assert repr(kind(["127.0.0.1:1", "localhost:2"])) == f"<{kind.__name__} 127.0.0.1:1, localhost:2>"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_is_not_copied_to_another_process(kind: Any) -> None:
    with pytest.raises(TypeError, match="a client cannot be copied or sent to another process: make one in each"):
        pickle.dumps(kind("127.0.0.1:1"))
