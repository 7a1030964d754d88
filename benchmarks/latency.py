"""How evenly text flows near saturation, and what a long prompt does to the others.

    python benchmarks/latency.py [--load 80] [--layers 1] [--hidden 256] [--characters 1000] [--json]

    saturation   characters a second of 256 streams that are read as fast as they come
    quiet        streams arrive at random (a Poisson process) at --load percent of that
    disturbed    the same, and a prompt of 10,000 characters arrives every second
    first        from the call to the first character of a stream
    gap          between two messages of one stream

The generator is a separate process on the same cores. Rounds repeat; medians are printed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from harness.arrivals import Load
from harness.served import Server, make_model, segue_server
from harness.tables import Column, parser, show
from streams import measure

COLUMNS = (
    Column("load", "load"),
    Column("per_second", "characters/s", ",.0f"),
    Column("first_p50_ms", "first p50 ms", ",.0f"),
    Column("first_p99_ms", "p99", ",.0f"),
    Column("gap_p50_ms", "gap p50 ms", ",.0f"),
    Column("gap_p99_ms", "p99", ",.0f"),
    Column("gap_ratio", "p99 / p50", ".2f"),
)
STREAMS = 256


def load(server: Server, rate: float, seconds: float, characters: int, prompt_every: float) -> Load:
    """Have another process read arriving streams."""
    arguments = ["--rate", str(rate), "--seconds", str(seconds), "--characters", str(characters)]
    command = [
        sys.executable,
        "-m",
        "harness.arriving",
        server.address,
        *arguments,
        "--prompt-every",
        str(prompt_every),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent)  # noqa: S603
    return Load(**json.loads(done.stdout))


def row(found: Load) -> dict[str, Any]:
    """Return the figures of one run."""
    assert found.gap_p50 is not None
    assert found.gap_p99 is not None
    return {
        "per_second": found.per_second,
        "first_p50_ms": 1e3 * found.first_p50,
        "first_p99_ms": 1e3 * found.first_p99,
        "gap_p50_ms": 1e3 * found.gap_p50,
        "gap_p99_ms": 1e3 * found.gap_p99,
        "gap_ratio": found.gap_p99 / found.gap_p50,
    }


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--load", type=float, default=80, help="percent of saturation")
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--hidden", type=int, default=256)
    options.add_argument("--characters", type=int, default=1000, help="of each stream")
    options.add_argument("--seconds", type=float, default=10, help="of each run")
    options.add_argument("--repeats", type=int, default=3)
    chosen = options.parse_args()
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), chosen.layers, chosen.hidden)
        with segue_server(Path(folder)) as server:
            measure(server, STREAMS, 100)
            for _ in range(chosen.repeats):
                saturation = measure(server, STREAMS, chosen.characters).load.per_second
                rate = saturation * chosen.load / 100 / chosen.characters
                rounds.append(
                    {
                        name: row(load(server, rate, chosen.seconds, chosen.characters, prompt_every))
                        for name, prompt_every in (("quiet", 0), ("disturbed", 1))
                    }
                )
    rows = [
        {"load": name, **{key: median(each[name][key] for each in rounds) for key in rounds[0][name]}}
        for name in rounds[0]
    ]
    ratio = median(each["disturbed"]["gap_p99_ms"] / each["quiet"]["gap_p99_ms"] for each in rounds)
    title = f"segue serve at {chosen.load:g} % of saturation, {chosen.layers} x {chosen.hidden} LSTM"
    show(title, COLUMNS, rows, as_json=chosen.json, gap_p99_disturbed_by_quiet=round(ratio, 2))


if __name__ == "__main__":
    main()
