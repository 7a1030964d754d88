"""Scoring text: `Score` of the server beside PyTorch's nn.LSTM reading the same texts on the same cores, in one run.

    python benchmarks/scoring.py [--texts 300] [--long 40000] [--layers 1] [--hidden 256] [--json]

    many    short texts of 1 to 2,000 characters (log-uniform, so that most are short), in one call of `score_many`
    long    one text, in parts of --part characters, each from the ticket of the part before

PyTorch reads the many as padded batches of 64, sorted by length so that little is padded, and the long one in chunks
of --part characters that carry the state. It runs in process: nothing is sent, checked or normalized, and its sums are
not exact. Of one thread and one for each core, the faster counts. The server's ONNX Runtime has one thread (`segue
serve --threads`), and its client is in this process. CPU seconds are those of the server's process, and of this one
while PyTorch reads. Both have the same weights, and their sums are compared before anything is measured.

Repeats alternate; medians are printed. `ratio` is the server's characters/s by PyTorch's, the median of the pairs.
"""

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from harness.machine import cpu_seconds
from harness.served import TEXT_CHARACTERS, Server, make_model, make_module, segue_server
from harness.tables import Column, Row, parser, show
from rich.console import Console
from rich.progress import Progress
from rival.torch_loop import thread_counts, torch_threads
from segue_client import AsyncClient
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

COLUMNS: Final = (
    Column("texts", "texts"),
    Column("characters", "characters", ",d"),
    Column("name", "scored by"),
    Column("per_second", "characters/s", ",.0f"),
    Column("ratio", "ratio", ",.2f"),
    Column("cpu_per_million", "CPU s / million", ",.2f"),
)
LONGEST: Final = 2000
BATCH: Final = 64
PADDING: Final = -100
"""Marks a target that counts for nothing."""
TOLERANCE: Final = 1e-4
"""Of the two sums, relative: float32 rounds differently in other kernels."""


@dataclass(frozen=True)
class Taken:
    """One measurement, and the sum of log-probabilities that came of it."""

    seconds: float
    cpu_seconds: float
    nats: float


Scorer = Callable[[], Taken]


@dataclass(frozen=True)
class Texts:
    """What is scored."""

    many: list[str]
    long: str
    part: int

    @classmethod
    def random(cls, number: int, long: int, part: int) -> "Texts":
        """Make texts up: what they say does not matter to a model of random weights."""
        source = random.Random(0)
        lengths = [round(math.exp(source.uniform(0, math.log(LONGEST)))) for _ in range(number)]
        return cls([_text(source, length) for length in lengths], _text(source, long), part)

    @property
    def parts(self) -> list[str]:
        """The long text in order."""
        return [self.long[start : start + self.part] for start in range(0, len(self.long), self.part)]


class TorchScorer:
    """PyTorch on the same weights."""

    def __init__(self, layers: int, hidden: int) -> None:
        self._module = make_module(layers, hidden).eval()
        self._ids = {character: number for number, character in enumerate(TEXT_CHARACTERS, start=1)}

    def many(self, texts: list[str]) -> Taken:
        """Score each text, in batches of like length."""
        return self._fastest(lambda: self._many(texts))

    def long(self, parts: list[str]) -> Taken:
        """Score one text in parts."""
        return self._fastest(lambda: self._long(parts))

    @torch.inference_mode()
    def _many(self, texts: list[str]) -> float:
        nats, ordered = 0.0, sorted(texts, key=len)
        for start in range(0, len(ordered), BATCH):
            rows = [self._encoded(text) for text in ordered[start : start + BATCH]]
            targets_BT = pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=PADDING)
            ids_BT = pad_sequence([row[:-1] for row in rows], batch_first=True)
            if ids_BT.shape[1]:
                logits_BTV, *_ = self._module(ids_BT, *self._module.zero_state(len(rows)))
                nats -= _loss(logits_BTV, targets_BT)
        return nats

    @torch.inference_mode()
    def _long(self, parts: list[str]) -> float:
        nats, state, last = 0.0, self._module.zero_state(1), torch.empty(0, dtype=torch.int64)
        for part in parts:
            ids = torch.cat([last, self._encoded(part)])
            logits_BTV, *state_after = self._module(ids[None, :-1], *state)
            nats -= _loss(logits_BTV, ids[None, 1:])
            state, last = tuple(state_after), ids[-1:]
        return nats

    def _encoded(self, text: str) -> torch.Tensor:
        return torch.tensor([self._ids[character] for character in text])

    def _fastest(self, score: Callable[[], float]) -> Taken:
        return min((_timed(score, threads) for threads in thread_counts()), key=lambda taken: taken.seconds)


class ServerScorer:
    """The server, through the client that anyone would use."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, client: AsyncClient) -> None:
        self._server = server
        self._loop = loop
        self._client = client

    def many(self, texts: list[str]) -> Taken:
        """Score each text, in one call."""
        return self._timed(lambda: self._loop.run_until_complete(self._many(texts)))

    def long(self, parts: list[str]) -> Taken:
        """Score one text in parts."""
        return self._timed(lambda: self._loop.run_until_complete(self._long(parts)))

    async def _many(self, texts: list[str]) -> float:
        return math.fsum(score.sum_log_probability for score in await self._client.score_many(texts))

    async def _long(self, parts: list[str]) -> float:
        ticket, nats = None, 0.0
        for part in parts:
            score = await self._client.score(part, ticket=ticket, return_ticket=True)
            ticket, nats = score.ticket, nats + score.sum_log_probability
        return nats

    def _timed(self, score: Callable[[], float]) -> Taken:
        cpu, wall = cpu_seconds(self._server.process_id), time.perf_counter()
        nats = score()
        wall = time.perf_counter() - wall
        return Taken(wall, cpu_seconds(self._server.process_id) - cpu, nats)


def _text(source: random.Random, length: int) -> str:
    return "".join(source.choices(TEXT_CHARACTERS, k=length))


def _loss(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> float:
    logits = logits_BTV.reshape(-1, logits_BTV.shape[-1])
    return float(cross_entropy(logits, targets_BT.reshape(-1), ignore_index=PADDING, reduction="sum"))


def _timed(score: Callable[[], float], threads: int) -> Taken:
    with torch_threads(threads):
        wall, cpu = time.perf_counter(), time.process_time()
        nats = score()
        return Taken(time.perf_counter() - wall, time.process_time() - cpu, nats)


@contextmanager
def scorers(texts: Texts, layers: int, hidden: int) -> Iterator[dict[str, dict[str, Scorer]]]:
    """Yield who scores what: for each kind of texts the server and PyTorch."""
    rival = TorchScorer(layers, hidden)
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        make_model(Path(folder), layers, hidden)
        with segue_server(Path(folder)) as server:
            loop = runner.get_loop()
            client = runner.run(_client(server))
            ours = ServerScorer(server, loop, client)
            yield {
                "many": {"server": lambda: ours.many(texts.many), "nn.LSTM": lambda: rival.many(texts.many)},
                "long": {"server": lambda: ours.long(texts.parts), "nn.LSTM": lambda: rival.long(texts.parts)},
            }
            runner.run(client.close())


async def _client(server: Server) -> AsyncClient:
    """Make a client inside the event loop that it belongs to."""
    return AsyncClient(server.address)


def check(kind: str, taken: dict[str, Taken]) -> None:
    """Refuse to compare two who do not compute the same."""
    ours, theirs = taken["server"].nats, taken["nn.LSTM"].nats
    if not math.isclose(ours, theirs, rel_tol=TOLERANCE):
        raise SystemExit(f"{kind}: the server's sum is {ours:.3f} nats, PyTorch's {theirs:.3f}")


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Score by turns."""
    texts = Texts.random(arguments.texts, arguments.long, arguments.part)
    sizes = {"many": sum(map(len, texts.many)), "long": len(texts.long)}
    rounds: dict[str, list[dict[str, Taken]]] = {"many": [], "long": []}
    with (
        scorers(texts, arguments.layers, arguments.hidden) as kinds,
        Progress(console=Console(file=sys.stderr), transient=True) as progress,
    ):
        for kind, who in kinds.items():
            check(kind, {name: score() for name, score in who.items()})  # warms up, too
        for _ in progress.track(range(arguments.repeats), description="scoring"):
            for kind, who in kinds.items():
                rounds[kind].append({name: score() for name, score in who.items()})
    return [_row(kind, name, sizes[kind], rounds[kind]) for kind in rounds for name in ("server", "nn.LSTM")]


def _row(kind: str, name: str, characters: int, rounds: list[dict[str, Taken]]) -> dict[str, Any]:
    ratios = [taken["nn.LSTM"].seconds / taken["server"].seconds for taken in rounds]
    return {
        "texts": kind,
        "characters": characters,
        "name": name,
        "per_second": characters / median(taken[name].seconds for taken in rounds),
        "ratio": median(ratios) if name == "nn.LSTM" else None,
        "cpu_per_million": 1e6 * median(taken[name].cpu_seconds for taken in rounds) / characters,
    }


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--texts", type=int, default=300, help="how many short ones")
    options.add_argument("--long", type=int, default=40_000, help="characters of the long one")
    options.add_argument("--part", type=int, default=10_000, help="characters of one of its parts")
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--repeats", type=int, default=5)
    arguments = options.parse_args()
    title = f"scoring, {arguments.layers} x {arguments.hidden} LSTM, medians of {arguments.repeats}"
    show(title, COLUMNS, measure(arguments), as_json=arguments.json)


if __name__ == "__main__":
    main()
