"""Calls at a rate that does not wait for answers (open loop), or a number at once (closed loop). A process of its own.

    python -m attacks.harness.load_process HOST:PORT      from the folder `tests`

Reads one JSON object a line and prints what it saw as another; times are in seconds:

    {"kind": "text", "rate": 100, "burst": 1, "seconds": 5, "deadline": null}   an open loop with Poisson arrivals
    {"kind": "text", "at_once": 48, "seconds": 5}                               a closed loop
    {"kind": "text", "at_once": 48, "seconds": 0}                               48 calls, to their ends
    {"kind": "text", "normal": 0.1, "seconds": 5, "patience": 9}                ten calls a second; see `recovery`

The calls are made by a client that costs little, so that the server is measured and not this process. Health is checked
all the time, by gRPC's own client.
"""

import asyncio
import base64
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from segue.v1 import generation_pb2, scoring_pb2

from attacks.harness.lean_client import Answer, LeanClient

CONNECTIONS: Final = 40
"""Enough for 5,000 calls that are open at once."""
MOST_AT_ONCE: Final = 20_000
_LETTERS: Final = str.maketrans("0123456789", "abcdefghij")
PASSAGE: Final = "The cat sat on the mat. " * 21


class Seen:
    """What one phase saw."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.statuses: Counter[str] = Counter()
        self.ended: list[float] = []
        self.first: list[float] = []
        self.refused: list[float] = []
        self.without_hint = 0
        self.health: list[float] = []
        self.details: Counter[str] = Counter()


class Load:
    """The calls of one process."""

    def __init__(self, address: str, clients: list[LeanClient]) -> None:
        self._clients = clients
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._health: Any = health_pb2_grpc.HealthStub(grpc.aio.insecure_channel(address, options=options))
        self._random = random.Random(1)
        self._number = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self.seen = Seen()

    async def phase(self, order: dict[str, Any]) -> dict[str, Any]:
        """Run one order; return what was seen until its time was up, and how it ended."""
        self.seen = seen = Seen()
        cpu = _cpu()
        health = asyncio.create_task(self._check_health(seen))
        if "rate" in order:
            calls, offered = await self._open_loop(order)
        else:
            calls, offered = await self._closed_loop(order)
        seconds = time.monotonic() - seen.began
        report = {
            "offered": offered,
            "seconds": seconds,
            "answered": len(seen.ended),
            "answered_late": sum(each > seen.began + seconds / 2 for each in seen.ended) * 2,
            "under_way": len(calls),
            "cpu_share": (_cpu() - cpu) / seconds,
        }
        self._under_way |= calls
        health.cancel()
        return report | {
            "statuses": dict(seen.statuses),
            "details": dict(seen.details.most_common(4)),
            "first_p50": _percentile(seen.first, 50),
            "first_p99": _percentile(seen.first, 99),
            "refused": len(seen.refused),
            "refused_p50": _percentile(seen.refused, 50),
            "refused_p99": _percentile(seen.refused, 99),
            "without_hint": seen.without_hint,
            "health_checks": len(seen.health),
            "health_p99": _percentile(seen.health, 99),
        }

    async def recovery(self, order: dict[str, Any]) -> dict[str, Any]:
        """Try ten calls a second; return when the last one began that was refused or had to wait longer than normal.

        What the phase before left under way goes on meanwhile, and has `patience` seconds more to end.
        """
        began, last_bad = time.monotonic(), 0.0

        async def probe(at: float) -> None:
            nonlocal last_bad
            self.seen = seen = Seen()
            await self._call(order["kind"], seen, None)
            if not seen.first or seen.first[0] > order["normal"]:
                last_bad = max(last_bad, at)

        probes: list[asyncio.Task[None]] = []
        while (at := time.monotonic() - began) < order["seconds"]:
            probes.append(asyncio.create_task(probe(at)))
            await asyncio.sleep(0.1)
        _, waiting = await asyncio.wait(probes, timeout=order["seconds"])
        last_bad = order["seconds"] if waiting else last_bad
        for each in waiting:
            each.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=order["patience"])
        unfinished = [call for call in self._under_way if not call.done()]
        for call in unfinished:
            call.cancel()
        self._under_way.clear()
        return {"recovery": last_bad, "probes": len(probes), "unfinished": len(unfinished)}

    async def _open_loop(self, order: dict[str, Any]) -> "tuple[set[asyncio.Task[None]], int]":
        calls: set[asyncio.Task[None]] = set()
        burst, offered = int(order.get("burst", 1)), 0
        began = due = time.monotonic()
        while (now := time.monotonic()) < began + order["seconds"]:
            while due <= now:
                for _ in range(burst):
                    offered += 1
                    if len(calls) < MOST_AT_ONCE:
                        call = asyncio.create_task(self._call(order["kind"], self.seen, order.get("deadline")))
                        calls.add(call)
                        call.add_done_callback(calls.discard)
                due += self._random.expovariate(order["rate"] / burst)
            await asyncio.sleep(0.001)
        return calls, offered

    async def _closed_loop(self, order: dict[str, Any]) -> "tuple[set[asyncio.Task[None]], int]":
        end, offered = time.monotonic() + order["seconds"], 0

        async def repeat() -> None:
            nonlocal offered
            while True:
                offered += 1
                await self._call(order["kind"], self.seen, order.get("deadline"))
                if time.monotonic() >= end:
                    return

        calls = {asyncio.create_task(repeat()) for _ in range(order["at_once"])}
        if order["seconds"]:
            _, calls = await asyncio.wait(calls, timeout=order["seconds"])
        else:
            await asyncio.wait(calls)
            calls = set()
        return calls, offered

    async def _call(self, kind: str, seen: Seen, deadline: float | None) -> None:
        self._number += 1
        path, request = _CALLS[kind](self._number)
        client = self._clients[self._number % CONNECTIONS]
        try:
            answer = await client.call(path, request.SerializeToString(), deadline)
        except TimeoutError:
            seen.statuses["NO ANSWER"] += 1
            return
        seen.statuses[_NAMES.get(answer.status, answer.status)] += 1
        now = time.monotonic()
        if answer.status == "0":
            seen.ended.append(now)
            first = answer.messages[1] if path == _GENERATE else now  # after the one that says it has begun
            seen.first.append(first - answer.began)
        else:
            seen.details[str(answer.trailers.get("grpc-message", ""))[:120]] += 1
        if answer.status == _REFUSED:
            seen.refused.append(now - answer.began)
            seen.without_hint += not _hints(answer)

    async def _check_health(self, seen: Seen) -> None:
        while True:
            began = time.monotonic()
            try:
                await self._health.Check(health_pb2.HealthCheckRequest(), timeout=10)
                seen.health.append(time.monotonic() - began)
            except grpc.aio.AioRpcError as error:
                seen.health.append(10.0)
                seen.statuses[f"health {error.code().name}"] += 1
            await asyncio.sleep(0.05)


_GENERATE: Final = "/segue.v1.GenerationService/Generate"
_SCORE: Final = "/segue.v1.ScoringService/Score"
_REFUSED: Final = str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
_NAMES: Final = {str(code.value[0]): code.name for code in grpc.StatusCode}


def _text(number: int, characters: int = 512, prompt: str = "The ") -> tuple[str, Message]:
    sampling = generation_pb2.Sampling(seed=number)
    return _GENERATE, generation_pb2.GenerateRequest(prompt=prompt, max_characters=characters, sampling=sampling)


def _short_text(number: int) -> tuple[str, Message]:
    return _text(number, 64)


def _prompt(number: int) -> tuple[str, Message]:
    """A prompt of 20,000 characters and 64 characters. Each has a new beginning, so that none is cached."""
    beginning = str(number).translate(_LETTERS)  # the model may not know digits
    return _text(number, 64, f"{beginning} {PASSAGE * 40}"[:20_000])


def _score(_: int) -> tuple[str, Message]:
    """The score of 504 characters."""
    return _SCORE, scoring_pb2.ScoreRequest(texts=[PASSAGE])


_CALLS: Final[dict[str, Callable[[int], tuple[str, Message]]]] = {
    "text": _text,
    "short text": _short_text,
    "prompt": _prompt,
    "score": _score,
}


def _hints(answer: Answer) -> bool:
    """Return whether a refusal says when to retry, in both ways."""
    encoded = str(answer.trailers.get("grpc-status-details-bin", ""))
    status = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    told = any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    return told and str(answer.trailers.get("grpc-retry-pushback-ms", "")).isdigit()


def _percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main() -> None:
    """Obey each line."""
    load = Load(sys.argv[1], [await LeanClient.connect(sys.argv[1]) for _ in range(CONNECTIONS)])
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        report = await (load.recovery(order) if "normal" in order else load.phase(order))
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
