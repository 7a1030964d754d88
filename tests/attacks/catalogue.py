"""Every attack with its sizes: the small ones are among the tests, the full ones are what `make stress` runs."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from attacks.harness.finding import Finding
from attacks.harness.servers import Serve, Servers
from attacks.scenarios.load import cancelled_streams, heavy_requests, overload, refusal_cost
from attacks.scenarios.memory import (
    incomplete_requests,
    large_prompts,
    stalled_streams,
    streams_reset,
    unread_replies,
)
from attacks.scenarios.messages import (
    damaged_tickets,
    floods,
    fuzzed_requests,
    hostile_messages,
    kept_by_errors,
    log_floods,
)
from attacks.scenarios.shares import connections, hogs


@dataclass(frozen=True)
class Attack:
    """An attack of one size."""

    name: str
    function: Callable[[Serve, Any], list[Finding]]
    sizes: Any
    """A dataclass that the function's module defines."""

    def __str__(self) -> str:
        return self.name

    def run(self, models: Path) -> list[Finding]:
        """Attack servers of these models; return what was found, and what must hold for every server afterwards."""
        with tempfile.TemporaryDirectory() as folder:
            servers = Servers(models, Path(folder))
            found = self.function(servers, self.sizes)
            return [*found, *servers.findings(self.name)]


@dataclass(frozen=True)
class Group:
    """Attacks on one thing."""

    name: str
    small: tuple[Attack, ...]
    full: tuple[Attack, ...]


def _attacks(function: Callable[[Serve, Any], list[Finding]], sizes: tuple[Any, ...]) -> tuple[Attack, ...]:
    name = function.__name__.replace("_", " ")
    numbered = len(sizes) > 1
    return tuple(
        Attack(f"{name} {number}" if numbered else name, function, size) for number, size in enumerate(sizes, 1)
    )


MEMORY: Final = Group(
    "memory",
    (
        *_attacks(streams_reset.streams_reset, streams_reset.SMALL),
        *_attacks(unread_replies.unread_replies, unread_replies.SMALL),
        *_attacks(incomplete_requests.incomplete_requests, incomplete_requests.SMALL),
        *_attacks(large_prompts.large_prompts, large_prompts.SMALL),
        *_attacks(stalled_streams.stalled_streams, stalled_streams.SMALL),
    ),
    (
        *_attacks(streams_reset.streams_reset, streams_reset.FULL),
        *_attacks(unread_replies.unread_replies, unread_replies.FULL),
        *_attacks(incomplete_requests.incomplete_requests, incomplete_requests.FULL),
        *_attacks(large_prompts.large_prompts, large_prompts.FULL),
        *_attacks(stalled_streams.stalled_streams, stalled_streams.FULL),
    ),
)

SHARES: Final = Group(
    "shares",
    (
        *_attacks(hogs.hogs, hogs.SMALL),
        *_attacks(connections.idle_connections, connections.SMALL),
        *_attacks(connections.half_requests_for_metrics, connections.METRICS_SMALL),
    ),
    (
        *_attacks(hogs.hogs, hogs.FULL),
        *_attacks(connections.idle_connections, connections.FULL),
        *_attacks(connections.half_requests_for_metrics, connections.METRICS_FULL),
    ),
)

LOAD: Final = Group(
    "load",
    (
        *_attacks(overload.overload, overload.SMALL),
        *_attacks(overload.well_behaved, overload.CROWD_SMALL),
        *_attacks(refusal_cost.refusal_cost, refusal_cost.SMALL),
        *_attacks(heavy_requests.heavy_requests, heavy_requests.SMALL),
        *_attacks(cancelled_streams.cancelled_streams, cancelled_streams.SMALL),
    ),
    (
        *_attacks(overload.overload, overload.FULL),
        *_attacks(overload.well_behaved, overload.CROWD_FULL),
        *_attacks(refusal_cost.refusal_cost, refusal_cost.FULL),
        *_attacks(heavy_requests.heavy_requests, heavy_requests.FULL),
        *_attacks(cancelled_streams.cancelled_streams, cancelled_streams.FULL),
    ),
)

MESSAGES: Final = Group(
    "messages",
    (
        *_attacks(hostile_messages.hostile_messages, hostile_messages.SMALL),
        *_attacks(kept_by_errors.kept_by_errors, kept_by_errors.SMALL),
        *_attacks(fuzzed_requests.fuzzed_requests, fuzzed_requests.SMALL),
        *_attacks(damaged_tickets.damaged_tickets, damaged_tickets.SMALL),
        *_attacks(floods.floods, floods.SMALL),
        *_attacks(log_floods.log_floods, log_floods.SMALL),
    ),
    (
        *_attacks(hostile_messages.hostile_messages, hostile_messages.FULL),
        *_attacks(kept_by_errors.kept_by_errors, kept_by_errors.FULL),
        *_attacks(fuzzed_requests.fuzzed_requests, fuzzed_requests.FULL),
        *_attacks(damaged_tickets.damaged_tickets, damaged_tickets.FULL),
        *_attacks(floods.floods, floods.FULL),
        *_attacks(log_floods.log_floods, log_floods.FULL),
    ),
)

GROUPS: Final = (MEMORY, SHARES, LOAD, MESSAGES)
