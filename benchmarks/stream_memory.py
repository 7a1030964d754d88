"""One long text through ScoreStream: the server's memory on the way, and the total beside the sum of its parts.

    python benchmarks/stream_memory.py [--megabytes 10] [--layers 1] [--hidden 64] [--parts 5] [--json]

The text is made up, ASCII, sent in pieces of 16,384 characters; the client waits for each answer. Then the same text is
scored in parts, each a stream that continues from the previous part's ticket. `memory` is the resident set of
the server's process at the end of each part of the one stream; the sums must be equal to the bit.
"""

import argparse
import math
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
from harness.served import TEXT_CHARACTERS, make_model, segue_server
from harness.tables import Column, Row, parser, show
from segue.v1 import common_pb2, scoring_pb2_grpc
from segue.v1 import scoring_pb2 as pb

COLUMNS: Final = (
    Column("characters", "characters so far", ",d"),
    Column("memory", "server's memory, MiB", ",.1f"),
    Column("nats", "sum so far, nats", ",.6f"),
)
PIECE: Final = 2**14
_PAGE: Final = 4096


def pieces(first: int, last: int) -> Iterator[str]:
    """Yield the pieces of the text with these numbers; each is made from its number alone."""
    for number in range(first, last):
        yield "".join(random.Random(number).choices(TEXT_CHARACTERS, k=PIECE))


def stream(
    stub: scoring_pb2_grpc.ScoringServiceStub, first: int, last: int, ticket: bytes = b""
) -> Iterator[pb.TextScore]:
    """Score some pieces; yield the total after each, and finally that of all with a ticket."""
    start = common_pb2.Start(ticket=ticket) if ticket else None

    def requests() -> Iterator[pb.ScoreStreamRequest]:
        yield pb.ScoreStreamRequest(start=pb.ScoreStreamStart(start=start, return_ticket=True))
        for piece in pieces(first, last):
            yield pb.ScoreStreamRequest(text=piece)

    for response in stub.ScoreStream(requests()):
        if response.HasField("progress"):
            yield response.progress.total
        elif response.HasField("finished"):
            yield response.finished.total


def resident(process_id: int) -> float:
    """Return the resident set of a process in MiB."""
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * _PAGE / 2**20


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Score the text whole, then in parts."""
    count = math.ceil(arguments.megabytes * 1e6 / PIECE)
    part = math.ceil(count / arguments.parts)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), arguments.layers, arguments.hidden)
        with segue_server(Path(folder)) as server, grpc.insecure_channel(server.address) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            total = pb.TextScore()
            for number, total in enumerate(stream(stub, 0, count), start=1):
                if number % part == 0 or number == count:
                    memory = resident(server.process_id)
                    rows.append({"characters": number * PIECE, "memory": memory, "nats": total.sum_log_probability})
            ticket, sums = b"", list[float]()
            for first in range(0, count, part):
                *_, last = stream(stub, first, min(first + part, count), ticket)
                ticket, sums = last.ticket, [*sums, last.sum_log_probability]
    if sum(sums) != total.sum_log_probability:
        raise SystemExit(f"the parts add up to {sum(sums)!r} nats, the whole is {total.sum_log_probability!r}")
    return rows


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--megabytes", type=float, default=10.0)
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=64)
    options.add_argument("--parts", type=int, default=5)
    arguments = options.parse_args()
    title = (
        f"one stream of {arguments.megabytes:g} MB, {arguments.layers} x {arguments.hidden} LSTM; parts add up exactly"
    )
    show(title, COLUMNS, measure(arguments), as_json=arguments.json)


if __name__ == "__main__":
    main()
