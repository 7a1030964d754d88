"""What a client hears of servers that go away is never taken for a failure of theirs."""

import asyncio
import re
from typing import Any

import pytest
from segue_client import AsyncClient
from segue_client.errors import Cancelled, ServerUnavailable
from segue_client.protocol.addresses import Addresses
from segue_client.protocol.deadline import Deadline
from segue_client.protocol.retry import RetryState

CALLS = 64


def bare(configuration: str) -> str:
    """Without its own words for a replica that is missing: nginx sends a page of HTML then."""
    return re.sub("error_page .*;", "", configuration)


@pytest.mark.parametrize("change", [str, bare])
async def test_a_proxy_without_a_replica_is_waited_for(nginx: Any, free_ports: Any, change: Any) -> None:
    with nginx(free_ports(4), change) as address:
        async with AsyncClient(address, resume_seconds=0.3) as client:
            outcomes = await asyncio.gather(*(client.generate() for _ in range(CALLS)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ServerUnavailable}
    assert all(outcome.was_reached for outcome in outcomes)


def test_a_call_that_a_stopping_server_cancelled_before_it_began_is_made_again() -> None:
    retry = RetryState(Addresses("the-only-one:1"), Deadline.after(None), patience=30.0)
    retry.begin()
    assert retry.delay_after(Cancelled("the call was cancelled")) < 1
