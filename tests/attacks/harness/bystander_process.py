"""A client who minds his own business: one stream after another, short scores, and health checks. A process of its own.

    python bystander_process.py HOST:PORT [TENANT]

For each line of standard input it prints one JSON line of what it saw since the last one; for the line "settled" it
first waits until a text, a score and a health check that began after the line have ended. It imports nothing of the
attacks', so that it starts as a stranger would.
"""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from segue.v1 import generation_pb2, generation_pb2_grpc, scoring_pb2, scoring_pb2_grpc

CHARACTERS: Final = 300
PAUSE: Final = 0.05
PATIENCE: Final = 60.0


class Seen:
    """What was seen since the last report; times are in seconds."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.health: list[float] = []
        self.texts = 0
        self.scores = 0
        self.errors: Counter[str] = Counter()

    def line(self, waiting: float) -> str:
        """Return it as JSON. `waiting`: how long the current text has waited for its next message."""
        health = sorted(self.health)
        report: dict[str, Any] = {
            "texts": self.texts,
            "scores": self.scores,
            "errors": dict(self.errors),
            "longest_gap": max([*self.gaps, waiting]),
            "health_checks": len(health),
            "health_p99": health[int(0.99 * len(health))] if health else PATIENCE,
        }
        return json.dumps(report)


class Bystander:
    """The calls, each kind in its own thread."""

    def __init__(self, address: str, tenant: str) -> None:
        self.seen = Seen()
        self._waiting_since: float | None = None
        self._begun: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._metadata = (("segue-tenant", tenant),) if tenant else ()
        channel = grpc.insecure_channel(address)
        self._generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self._scoring = scoring_pb2_grpc.ScoringServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def run(self) -> None:
        """Answer each line with what was seen."""
        calls = (self._text, self._score, self._check)
        for call in calls:
            threading.Thread(target=self._repeat, args=(call,), daemon=True).start()
        for line in sys.stdin:
            if line.strip() == "settled":
                next_ones = {call.__name__: self._begun[call.__name__] + 1 for call in calls}
                while any(self._ended[name] < number for name, number in next_ones.items()):
                    time.sleep(0.01)
            since, now = self._waiting_since, time.monotonic()
            seen, self.seen = self.seen, Seen()
            sys.stdout.write(seen.line(0.0 if since is None else now - since) + "\n")
            sys.stdout.flush()

    def _repeat(self, call: Callable[[], None]) -> None:
        while True:
            self._begun[call.__name__] += 1
            try:
                call()
            except grpc.RpcError as error:
                self.seen.errors[f"{call.__name__.strip('_')} {error.code().name}"] += 1  # type: ignore[attr-defined]
            self._ended[call.__name__] += 1
            self._waiting_since = None if call == self._text else self._waiting_since
            time.sleep(PAUSE)

    def _text(self) -> None:
        self._waiting_since, count = time.monotonic(), 0
        request = generation_pb2.GenerateRequest(prompt="The ", max_characters=CHARACTERS)
        for response in self._generation.Generate(request, timeout=PATIENCE, metadata=self._metadata):
            now = time.monotonic()
            self.seen.gaps.append(now - self._waiting_since)
            self._waiting_since = now
            count += len(response.text.text)
        self.seen.texts += count == CHARACTERS

    def _score(self) -> None:
        request = scoring_pb2.ScoreRequest(texts=["The cat"])
        self._scoring.Score(request, timeout=PATIENCE, metadata=self._metadata)
        self.seen.scores += 1

    def _check(self) -> None:
        began = time.monotonic()
        self._health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        self.seen.health.append(time.monotonic() - began)


if __name__ == "__main__":
    Bystander(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "").run()
