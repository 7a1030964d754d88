"""What a caller may pass: long times, and what is of the wrong kind."""

import math
import pickle
import re
from typing import Any

import pytest
from segue_client import AsyncClient, Client, DeadlineExceeded, InvalidRequest


@pytest.mark.parametrize("seconds", [7e9, 8e9, 1e12, math.inf])
async def test_a_very_long_timeout_is_none(peer: Any, make_face: Any, seconds: float) -> None:
    face = make_face(peer.address, timeout=seconds)
    assert await face.whole("Say: ") == "Hello"
    assert (await face.call("score", "abc", timeout=seconds)).scored_count == 2


async def test_a_timeout_that_has_passed_reaches_no_server(peer: Any, face: Any) -> None:
    for timeout in (0, -1):
        for method, argument in (("generate", ""), ("score", "abc")):
            with pytest.raises(DeadlineExceeded):
                await face.call(method, argument, timeout=timeout)
    assert not peer.requests


async def test_what_is_no_time_is_refused(peer: Any, face: Any) -> None:
    for method, argument in (("generate", ""), ("score", "abc")):
        with pytest.raises(InvalidRequest, match="timeout is nan; choose"):
            await face.call(method, argument, timeout=math.nan)
    for field in ("timeout", "resume_seconds"):
        with pytest.raises(InvalidRequest, match=f"{field} is nan; choose"):
            Client(peer.address, **{field: math.nan})


@pytest.mark.parametrize(
    ("method", "arguments", "options", "message"),
    [
        ("score", (float("nan"),), {}, "text is float, not str"),
        ("score_many", (["ok", float("nan")],), {}, "texts[1] is float, not str"),
        ("score_many", (["ok", None],), {}, "texts[1] is NoneType, not str"),
        ("score_candidates", ("ok", ["a", 1]), {}, "candidate is int, not str"),
        ("generate", (1,), {}, "prompt is int, not str"),
        ("generate", ("",), {"temperature": "hot"}, "temperature is 'hot', not a number"),
        ("generate", ("",), {"top_k": 1.5}, "top_k is 1.5; choose 0 to 4,294,967,295"),
        ("generate", ("",), {"seed": "x"}, "seed is 'x'; choose 0 to 18,446,744,073,709,551,615"),
        ("generate", ("",), {"biases": {"a": None}}, "biases is None, not a number"),
        ("generate", ("",), {"ticket": "text"}, "ticket is str, not bytes"),
    ],
)
async def test_what_is_of_the_wrong_kind_is_named(
    face: Any, method: str, arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"^{re.escape(message)}$"):
        await face.call(method, *arguments, **options)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_is_not_copied_to_another_process(kind: Any) -> None:
    with pytest.raises(TypeError, match="a client cannot be copied or sent to another process: make one in each"):
        pickle.dumps(kind("127.0.0.1:1"))
