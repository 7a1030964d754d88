"""What a refusal costs the server, beside a server of gRPC's own that does nothing but refuse."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from attacks.harness.bare_server import PROGRAM
from attacks.harness.connection import UNLIMITED, Connection, framed
from attacks.harness.finding import Finding
from attacks.harness.load import LoadProcess, cores, load
from attacks.harness.messages import SCORE_STREAM, score_stream_start
from attacks.harness.options import places
from attacks.harness.servers import Serve, Server


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    rounds: int
    seconds: float
    at_once: int = 64


@dataclass(frozen=True)
class _Cost:
    """Microseconds of CPU time for one refusal."""

    loop: float
    """Of the event loop's thread."""
    whole: float
    """Of the process."""


def refusal_cost(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Take the only place there is; then ask for others, `at_once` of them, and the bare server in turns."""
    server_cores, client_cores = cores()
    with (
        serve(*places(1), cores=server_cores) as server,
        serve(cores=server_cores, program=PROGRAM) as bare,
        load(server, client_cores) as generator,
        load(bare, client_cores) as bare_generator,
    ):
        holder = Connection(server.port, window=UNLIMITED)
        holder.send(holder.open(SCORE_STREAM), framed(score_stream_start()))
        holder.receive(1.0)
        measured = [(_cost(server, generator, sizes), _cost(bare, bare_generator, sizes)) for _ in range(sizes.rounds)]
        holder.close()

    def medians(of: Callable[[_Cost], float]) -> tuple[float, float]:
        return median(of(own) for own, _ in measured), median(of(other) for _, other in measured)

    (loop, bare_loop), (whole, bare_whole) = medians(lambda cost: cost.loop), medians(lambda cost: cost.whole)
    attack = f"{sizes.at_once} calls at once for no place"
    return [
        Finding(
            f"{attack}: event loop's CPU for each", loop, "us", 100, by_clock=True, notes=f"bare gRPC: {bare_loop:.0f}"
        ),
        Finding(
            f"{attack}: CPU for each, of bare gRPC's",
            whole / bare_whole,
            "times",
            1,
            by_clock=True,
            notes=f"{whole:.0f} and {bare_whole:.0f} us",
        ),
    ]


def _cost(server: Server, generator: LoadProcess, sizes: Sizes) -> _Cost:
    loop, whole = server.process.main_thread_seconds, server.process.cpu_seconds
    seen = generator.order(kind="text", at_once=sizes.at_once, seconds=sizes.seconds)
    loop, whole = server.process.main_thread_seconds - loop, server.process.cpu_seconds - whole
    others = {name for name in seen["statuses"] if not name.startswith("health ")} - {"RESOURCE_EXHAUSTED"}
    assert not others, seen  # the bare server knows no health
    assert seen["refused"], seen
    return _Cost(1e6 * loop / seen["refused"], 1e6 * whole / seen["refused"])


SMALL: Final = (Sizes(1, 1.0),)
FULL: Final = (Sizes(7, 3.0),)
