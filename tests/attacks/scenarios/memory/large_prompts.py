"""Prompts of the largest size, many at once: places alone do not bound what they hold."""

import time
from dataclasses import dataclass
from typing import Final

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.connection import Connection
from attacks.harness.finding import Finding
from attacks.harness.messages import GENERATE, generate
from attacks.harness.options import memory_budget
from attacks.harness.process import Growth
from attacks.harness.servers import Serve

BUDGET: Final = 128
"""MiB that the server may hold for calls."""


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    prompts: int
    connections: int = 2
    characters: int = 1_000_000


def large_prompts(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Send the prompts at once, and look at what they hold a little later."""
    attack = f"{sizes.prompts} prompts of {sizes.characters:,} characters, {sizes.connections} connections"
    request = generate(1, prompt="ab" * (sizes.characters // 2))
    with serve(*memory_budget(BUDGET)) as server, bystander(server) as other:
        quiet = other.quiet(1)
        growth = Growth(server.process)
        connections = [Connection(server.port) for _ in range(sizes.connections)]
        for number in range(sizes.prompts):
            connection = connections[number % len(connections)]
            if connection.room > 0:
                connection.call(GENERATE, request)
            connection.receive(0)
        time.sleep(2)
        findings = [
            Finding(f"{attack}: memory, of a budget of {BUDGET} MiB", growth.peak, "MiB", BUDGET + 64),
            *undisturbed(attack, quiet, other.settled()),
        ]
        for connection in connections:
            connection.close()
        return findings


SMALL: Final = (Sizes(40),)
FULL: Final = (Sizes(100), Sizes(100, connections=50))
