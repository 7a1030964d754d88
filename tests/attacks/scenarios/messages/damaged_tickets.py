"""Tickets that were changed, cut, joined or made up: all refused, with one text."""

import os
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import grpc
from segue.v1 import common_pb2, generation_pb2, generation_pb2_grpc, scoring_pb2, scoring_pb2_grpc

from attacks.harness.finding import Finding
from attacks.harness.process import Growth
from attacks.harness.servers import Serve


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    tickets: int


def damaged_tickets(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Offer damaged tickets to both services that take them, and an undamaged one of another tenant."""
    attack = f"{sizes.tickets:,} damaged tickets"
    source = random.Random(1)
    with serve() as server, grpc.insecure_channel(server.address) as channel:
        generation: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        scoring: Any = scoring_pb2_grpc.ScoringServiceStub(channel)
        first, second = (_ticket(generation, prompt) for prompt in ("The ", "A "))
        growth = Growth(server.process)
        answers: Counter[tuple[str, str]] = Counter()

        def offer(ticket: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> None:
            start = common_pb2.Start(ticket=ticket)
            try:
                if source.random() < 0.5:
                    scoring.Score(scoring_pb2.ScoreRequest(start=start, texts=["a"]), metadata=metadata, timeout=60)
                else:
                    list(
                        generation.Generate(generation_pb2.GenerateRequest(start=start), metadata=metadata, timeout=60)
                    )
            except grpc.RpcError as error:
                answers[error.code().name, error.details()] += 1  # type: ignore[attr-defined]
            else:
                answers["OK", ""] += 1

        for _ in range(sizes.tickets):
            offer(_damaged(first, second, source))
        offer(first, metadata=(("segue-tenant", "another"),))
        accepted, before = answers["OK", ""], sum(answers.values())
        offer(first)
        return [
            Finding(f"{attack}: accepted", accepted, "tickets", 0),
            Finding(
                f"{attack}: kinds of answers", len(answers.keys() - {("OK", "")}), "kinds", 1, notes=str(dict(answers))
            ),
            Finding(f"{attack}: refused", before, "tickets", sizes.tickets + 1, at_least=True),
            Finding(f"{attack}: the whole one accepted", answers["OK", ""] - accepted, "tickets", 1, at_least=True),
            Finding(f"{attack}: memory", growth.peak, "MiB", 64),
        ]


def _ticket(generation: Any, prompt: str) -> bytes:
    request = generation_pb2.GenerateRequest(prompt=prompt, max_characters=5, return_ticket=True)
    return bytes(list(generation.Generate(request, timeout=60))[-1].finished.ticket)


def _damaged(first: bytes, second: bytes, source: random.Random) -> bytes:
    # Both begin alike: joined within that, they are the second one whole.
    while (ticket := _changed(first, second, source)) in {first, second}:
        pass
    return ticket


def _changed(first: bytes, second: bytes, source: random.Random) -> bytes:
    ticket = bytearray(first)
    match source.randrange(5):
        case 0:
            ticket[source.randrange(len(ticket))] ^= 1 << source.randrange(8)
        case 1:
            del ticket[source.randrange(1, len(ticket)) :]
        case 2:
            at = source.randrange(1, len(ticket))
            ticket[at:] = second[at:]
        case 3:
            ticket += os.urandom(source.randint(1, 100))
        case 4:
            ticket[:] = os.urandom(source.randint(1, 2 * len(ticket)))
    return bytes(ticket)


SMALL: Final = (Sizes(300),)
FULL: Final = (Sizes(6000),)
