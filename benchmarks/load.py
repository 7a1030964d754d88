"""The server over gRPC under 1 to 5,000 concurrent streams.

    python benchmarks/load.py [--streams 1,8,64,256,1000,5000] [--layers 1] [--hidden 256] [--seconds 3] [--json]

    failed            streams that the server ended with an error before any text
    characters/s      of all streams together, wall-clock
    CPU s / million   CPU seconds of the server's process for each million characters; the clients share its cores
    first             from the call to the first character of a stream, where all are called at the same moment
    gap               between two messages of one stream, each of which brings several characters
    MB                physical memory of the server before, the most while it served, and the growth by stream

Each point has its own server, so that memory left by an earlier one does not count. Its streams are as
long as takes some `--seconds`, and of 200 characters at least. Rounds over all points repeat; medians are printed.
Clients and server share the cores.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Final

from harness.machine import resident_bytes
from harness.served import make_model, room_for, segue_server
from harness.tables import Column, Row, numbers, parser, show
from rich.console import Console
from rich.progress import Progress
from streams import length_for, measure

COLUMNS: Final = (
    Column("streams", "streams", ",.0f"),
    Column("failed", "failed", ",.0f"),
    Column("characters", "length", ",.0f"),
    Column("per_second", "characters/s", ",.0f"),
    Column("cpu_per_million", "CPU s / million", ".2f"),
    Column("first_p50_ms", "first p50 ms", ",.1f"),
    Column("first_p99_ms", "p99", ",.1f"),
    Column("gap_p50_ms", "gap p50 ms", ",.1f"),
    Column("gap_p99_ms", "p99", ",.1f"),
    Column("characters_per_message", "a message", ",.1f"),
    Column("megabytes_before", "MB", ",.0f"),
    Column("megabytes_peak", "most", ",.0f"),
    Column("kilobytes_per_stream", "KB/stream", ",.1f"),
)
WARMING_CHARACTERS: Final = 200
LEAST_CHARACTERS: Final = 200
"""Of a stream: enough for several messages, and for the start of all streams not to be all that is measured."""
FEW: Final = 64
"""Fewer streams than this make memory grow by too little to tell."""


def point(models: Path, streams: int, characters: int | None, seconds: float) -> dict[str, Any]:
    """Start a server, load it, and return one row; without `characters`, find out how many take `seconds`."""
    with segue_server(models, room_for(streams)) as server:
        measure(server, 1, WARMING_CHARACTERS)
        before = resident_bytes(server.process_id)
        if characters is None:
            characters = max(LEAST_CHARACTERS, length_for(server, streams, seconds))
        measured = measure(server, streams, characters)
    load, peak = measured.load, measured.peak_bytes
    return {
        "streams": streams,
        "failed": load.failed,
        "characters": characters,
        "per_second": load.per_second,
        "cpu_per_million": measured.cpu_per_million,
        "first_p50_ms": 1e3 * load.first_p50,
        "first_p99_ms": 1e3 * load.first_p99,
        "gap_p50_ms": None if load.gap_p50 is None else 1e3 * load.gap_p50,
        "gap_p99_ms": None if load.gap_p99 is None else 1e3 * load.gap_p99,
        "characters_per_message": load.characters / load.messages,
        "megabytes_before": before / 1e6,
        "megabytes_peak": peak / 1e6,
        "kilobytes_per_stream": (peak - before) / 1e3 / load.streams if streams >= FEW else None,
        "client_cpu_per_million": 1e6 * load.client_cpu_seconds / load.characters,
    }


def medians(rows: list[dict[str, Any]]) -> Row:
    """Return the median of each figure over the rounds."""
    return {
        key: median(found) if (found := [row[key] for row in rows if row[key] is not None]) else None for key in rows[0]
    }


def measure_points(arguments: argparse.Namespace) -> list[Row]:
    """Go round all points as often as asked for."""
    rounds: dict[int, list[dict[str, Any]]] = {streams: [] for streams in arguments.streams}
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=Console(file=sys.stderr), transient=True) as progress,
    ):
        make_model(Path(folder), arguments.layers, arguments.hidden)
        for streams in progress.track(arguments.streams * arguments.repeats, description="streams"):
            characters = rounds[streams][0]["characters"] if rounds[streams] else None
            rounds[streams].append(point(Path(folder), streams, characters, arguments.seconds))
    return [medians(rows) for rows in rounds.values()]


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--streams", type=numbers, default=[1, 8, 64, 256, 1000, 5000])
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--seconds", type=float, default=3, help="about how long each point takes, at least")
    options.add_argument("--repeats", type=int, default=2)
    arguments = options.parse_args()
    title = f"segue serve, {arguments.layers} x {arguments.hidden} LSTM, medians of {arguments.repeats}"
    show(title, COLUMNS, measure_points(arguments), as_json=arguments.json)


if __name__ == "__main__":
    main()
