"""A stream whose server stops within a piece: its last ticket is behind as many characters as `sent_count` says."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from charlm.v1 import scoring_pb2 as pb
from charlm_server.errors import Stopping
from charlm_server.model import Model
from charlm_server.sequence import State
from charlm_server.services import score_stream
from charlm_server.services.score_stream import ScoreStreamCall
from charlm_server.starts import Origin
from charlm_server.tally import NOTHING_READ


class Output:
    def __init__(self) -> None:
        self.progress: list[pb.ScoreStreamProgress] = []

    async def write(self, response: pb.ScoreStreamResponse) -> None:
        if response.HasField("progress"):
            self.progress.append(response.progress)


@pytest.mark.parametrize("pieces", [["ab\r", "c"], ["ab", "c\r"], ["ab\r", "\r\n"], ["ab\r", "cd\r"], ["ab\r"]])
async def test_what_was_not_read_is_not_counted(
    model: Model, monkeypatch: pytest.MonkeyPatch, pieces: list[str]
) -> None:
    read: list[str] = []

    async def read_one(piece: Any, *_: object) -> tuple[Any, State]:
        if read:
            raise Stopping("the server is stopping")
        read.append(piece.text)
        return NOTHING_READ, State.after_first(1, model.state_shape, 0)

    async def requests() -> Any:
        for piece in pieces:
            yield pb.ScoreStreamRequest(text=piece)

    monkeypatch.setattr(score_stream, "read_one", read_one)
    output: Any = Output()
    served: Any = SimpleNamespace(model=model, worker=SimpleNamespace(draining=asyncio.Event()))
    origin: Any = Origin.nothing(SimpleNamespace(sha256=b"", host_class=b""))  # type: ignore[arg-type]
    call = ScoreStreamCall(pb.ScoreStreamStart(), origin, served, output, lambda _: b"a ticket")
    with pytest.raises(Stopping):
        await call.answer(requests())
    assert read == ["ab"]
    assert output.progress[-1].total.ticket
    assert output.progress[-1].sent_count == 2
