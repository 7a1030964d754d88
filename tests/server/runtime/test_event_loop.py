"""Long requests leave the event loop its turns, from their bytes to those of the reply."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from segue.v1 import scoring_pb2 as pb
from segue_server.server import ServerConfig, serve
from segue_server.stop_signals import StopSignals

SCORE = "/segue.v1.ScoringService/Score"
LARGEST_SHARE = 0.25
"""Of the processor time that the event loop's thread spends on a call, what it may spend before others get a turn."""


class Probe:
    """Takes a turn on the event loop every half millisecond."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = self._began = time.thread_time()
        self._turn()

    def _turn(self) -> None:
        now = time.thread_time()
        self.longest, self._last = max(self.longest, now - self._last), now
        self._handle = asyncio.get_running_loop().call_later(0.0005, self._turn)

    def share(self) -> float:
        """End; return the largest part of the time that passed between two turns."""
        self._handle.cancel()
        return self.longest / (time.thread_time() - self._began)


@asynccontextmanager
async def serving(models: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[grpc.aio.Channel]:
    """A whole server on this event loop."""
    signals = StopSignals()
    task = asyncio.ensure_future(serve(ServerConfig(models, folder / "keys", "memory:", port=0), signals))
    out = ""
    while "ready: " not in out:
        await asyncio.sleep(0.01)
        assert not task.done(), task.exception()
        out += capfd.readouterr().out
    try:
        # Which leaves the replies as bytes: to parse them would hold the loop too.
        async with grpc.aio.insecure_channel(out.split("ready: ")[1].split()[0]) as channel:
            yield channel
    finally:
        signals._stop(signal.SIGTERM, None)
        await task


@pytest.mark.parametrize(
    ("request_", "least_bytes"),
    [
        (pb.ScoreRequest(texts=["a" * 65_536], windows=pb.Windows(characters=1)), 65_536 * 12),
        (pb.ScoreRequest(texts=["a" * 20_000], top_alternatives=20), 20_000 * 20 * 8),
    ],
    ids=["windows", "alternatives"],
)
async def test_a_long_request_leaves_the_event_loop_its_turns(
    models_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    request_: pb.ScoreRequest,
    least_bytes: int,
) -> None:
    async with serving(models_folder, tmp_path, capfd) as channel:
        score: Any = channel.unary_unary(SCORE, pb.ScoreRequest.SerializeToString)
        await score(pb.ScoreRequest(texts=["a"]))
        probe = Probe()
        reply = await score(request_)
        share = probe.share()
    assert len(reply) >= least_bytes
    assert share < LARGEST_SHARE
