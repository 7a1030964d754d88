"""The heaviest requests that are legitimate: answered whole, and nobody else waits for it."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.request import urlopen

import grpc
from segue.v1 import generation_pb2, generation_pb2_grpc, scoring_pb2, scoring_pb2_grpc

from attacks.harness.bystander import bystander, undisturbed
from attacks.harness.finding import Finding
from attacks.harness.servers import Serve, Server

_OPTIONS: Final = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
_PASSAGE: Final = "The cat sat on the mat. "


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    share: float
    """Of the largest request of each kind."""
    at_once: int = 1
    rounds: int = 1


def heavy_requests(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Send each kind in turn; look at the answers, a bystander, and the lag that the server measures itself."""
    findings: list[Finding] = []
    with serve("--metrics-port", "0") as server, bystander(server) as other:
        quiet = other.quiet(1)
        for name, ask in _KINDS.items():
            with ThreadPoolExecutor(sizes.at_once) as threads:
                jobs = [threads.submit(_ask, server, ask, sizes.share) for _ in range(sizes.at_once * sizes.rounds)]
                wrong = sum(not job.result() for job in jobs)
            attack = f"{sizes.share:g} of {name}, {sizes.at_once} at once"
            findings += [
                Finding(f"{attack}: answers that are not whole", wrong, "replies", 0),
                *undisturbed(attack, quiet, other.settled()),
            ]
        lag = _longest_lag(server)
        if lag is not None:
            findings.append(Finding("heavy requests: the event loop's longest lag", 1e3 * lag, "ms", 10, by_clock=True))
    return findings


def _ask(server: Server, ask: Callable[[grpc.Channel, float], bool], share: float) -> bool:
    """Make one call, again where the server had no room for it; return whether the answer is whole."""
    deadline = time.monotonic() + 240
    with grpc.insecure_channel(server.address, options=_OPTIONS) as channel:
        while True:
            try:
                return ask(channel, share)
            except grpc.RpcError as error:
                full = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
                if not full or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)


def _score(channel: grpc.Channel, **fields: Any) -> Any:
    return scoring_pb2_grpc.ScoringServiceStub(channel).Score(scoring_pb2.ScoreRequest(**fields), timeout=240)


def _windows(channel: grpc.Channel, share: float) -> bool:
    count = int(65_536 * share)
    reply = _score(channel, texts=["a" * count], windows=scoring_pb2.Windows(characters=1))
    return len(reply.scores[0].windows) == count


def _texts(channel: grpc.Channel, share: float) -> bool:
    count = int(4096 * share)
    return len(_score(channel, texts=["The cat"] * count).scores) == count


def _alternatives(channel: grpc.Channel, share: float) -> bool:
    count = int(20_000 * share)
    reply = _score(channel, texts=["a" * count], top_alternatives=20)
    return len(reply.scores[0].alternatives) == count - 1  # nothing comes before the first


def _log_probabilities(channel: grpc.Channel, share: float) -> bool:
    count = int(250_000 * share)
    reply = _score(channel, texts=[(_PASSAGE * 11_000)[:count]], log_probabilities=True, ranks=True)
    return len(reply.scores[0].log_probabilities) == count - 1


def _piece(channel: grpc.Channel, share: float) -> bool:
    """A piece of a streamed text, in windows of one character."""
    count = int(65_536 * share)
    start = scoring_pb2.ScoreStreamStart(windows=scoring_pb2.Windows(characters=1))
    requests = [scoring_pb2.ScoreStreamRequest(start=start), scoring_pb2.ScoreStreamRequest(text="a" * count)]
    replies = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream(iter(requests), timeout=240)
    return sum(len(each.progress.total.windows) + len(each.finished.total.windows) for each in replies) == count


def _prompt(channel: grpc.Channel, share: float) -> bool:
    prompt = (_PASSAGE * 42_000)[: int(1_000_000 * share)]
    request = generation_pb2.GenerateRequest(prompt=prompt, max_characters=10)
    replies = generation_pb2_grpc.GenerationServiceStub(channel).Generate(request, timeout=240)
    return sum(len(each.text.text) for each in replies) == 10


_KINDS: Final[dict[str, Callable[[grpc.Channel, float], bool]]] = {
    "65,536 windows": _windows,
    "4,096 texts": _texts,
    "20,000 x 20 alternatives": _alternatives,
    "250,000 log-probabilities and ranks": _log_probabilities,
    "a piece of 65,536 characters in windows of one": _piece,
    "a prompt of 1,000,000 characters": _prompt,
}


def _longest_lag(server: Server) -> float | None:
    """Return the longest lag that the server has measured itself, in seconds; None if it measures none."""
    with urlopen(f"http://{server.metrics}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    found = re.search(r"^segue_event_loop_lag_longest_seconds\S* (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


SMALL: Final = (Sizes(0.1),)
FULL: Final = (Sizes(1.0, rounds=2), Sizes(1.0, at_once=4))
