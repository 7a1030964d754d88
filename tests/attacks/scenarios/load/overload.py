"""More work than the server can do: what it still does, how it refuses the rest, and how soon it is itself again."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

from attacks.harness.finding import Finding
from attacks.harness.load import LoadProcess, cores, load
from attacks.harness.models import other_models
from attacks.harness.servers import Serve


@dataclass(frozen=True)
class Sizes:
    """How much of it."""

    multiples: tuple[float, ...]
    """Of the capacity, one phase each."""
    kind: str = "text"
    """Of the calls; see `load_process`."""
    burst: int = 1
    """Calls that arrive together."""
    hidden: int | None = None
    """Units of the model, None: those of the usual one. A wider one does more for each call that it lets in."""
    at_once: int = 48
    """Calls of the closed loop that measures the capacity."""
    closed_seconds: float = 2.0
    seconds: float = 3.0
    recovery_seconds: float = 3.0
    patience: float = 20.0
    """Seconds that calls which were not refused have to end after the last arrival."""


@dataclass(frozen=True)
class _Closed:
    """What a closed loop saw."""

    capacity: float
    """Calls answered a second."""
    first_p99: float
    """Seconds."""


def overload(serve: Serve, sizes: Sizes) -> list[Finding]:
    """Let calls arrive at multiples of the capacity, with default settings.

    The capacity C is measured in a closed loop before and after each phase, and is their mean: that of a shared machine
    changes by the minute.
    """
    server_cores, client_cores = cores()
    findings: list[Finding] = []
    with (
        other_models(sizes.hidden) if sizes.hidden else nullcontext() as models,
        serve(cores=server_cores, models=models) as server,
        load(server, client_cores) as generator,
    ):
        generator.order(kind=sizes.kind, at_once=sizes.at_once, seconds=1)
        before = _closed_loop(generator, sizes)
        for multiple in sizes.multiples:
            seen = generator.order(
                kind=sizes.kind, rate=multiple * before.capacity, burst=sizes.burst, seconds=sizes.seconds
            )
            normal = max(3 * before.first_p99, 0.1)
            probe = "short text" if sizes.kind == "text" else sizes.kind  # ten a second are no load
            back = generator.order(kind=probe, seconds=sizes.recovery_seconds, normal=normal, patience=sizes.patience)
            after = _closed_loop(generator, sizes)
            closed = replace(before, capacity=(before.capacity + after.capacity) / 2)
            findings += _found(sizes, multiple, closed, seen, back)
            before = after
    return findings


def _closed_loop(generator: LoadProcess, sizes: Sizes) -> _Closed:
    seen = generator.order(kind=sizes.kind, at_once=sizes.at_once, seconds=sizes.closed_seconds)
    return _Closed(seen["answered"] / seen["seconds"], seen["first_p99"])


def _found(sizes: Sizes, multiple: float, closed: _Closed, seen: dict[str, Any], back: dict[str, Any]) -> list[Finding]:
    bar = 2 * closed.first_p99 if sizes.kind == "prompt" else 2.0  # a long prompt takes seconds without load
    bursts = f" in bursts of {sizes.burst}" if sizes.burst > 1 else ""
    attack = f"{multiple:g} x the capacity ({closed.capacity:.0f} calls/s of kind {sizes.kind}{bursts})"
    offered = f"offered {seen['offered'] / seen['seconds']:.0f}/s; load generator's CPU {seen['cpu_share']:.0%}"
    others = {name: count for name, count in seen["statuses"].items() if name not in {"OK", "RESOURCE_EXHAUSTED"}}
    findings = [
        Finding(f"{attack}: refusals without RetryInfo or pushback", seen["without_hint"], "calls", 0),
        Finding(f"{attack}: other errors", sum(others.values()), "calls", 0, notes=str(others or "")),
        Finding(
            f"{attack}: first characters, p99",
            1e3 * seen["first_p99"],
            "ms",
            1e3 * bar,
            by_clock=True,
            notes=f"p50 {1e3 * seen['first_p50']:.0f}, without load {1e3 * closed.first_p99:.0f}",
        ),
        Finding(f"{attack}: health, p99", 1e3 * seen["health_p99"], "ms", 100, by_clock=True),
        Finding(f"{attack}: back to normal first characters", back["recovery"], "s", bar, by_clock=True),
    ]
    if multiple < 1:
        return [*findings, Finding(f"{attack}: refused", seen["refused"], "calls", 0, by_clock=True)]
    share = seen["answered_late"] / seen["seconds"] / closed.capacity
    if multiple > 1:
        findings += [
            Finding(f"{attack}: refused", seen["refused"], "calls", 1, at_least=True, notes=str(seen["details"])),
            Finding(
                f"{attack}: neither refused nor ended {sizes.patience:g} s after the last arrival",
                back["unfinished"],
                "calls",
                0,
            ),
            Finding(
                f"{attack}: goodput, second half", share, "of C", 0.95, at_least=True, by_clock=True, notes=offered
            ),
            Finding(
                f"{attack}: refusals, p99",
                1e3 * seen["refused_p99"],
                "ms",
                50,
                by_clock=True,
                notes=f"p50 {1e3 * seen['refused_p50']:.1f}",
            ),
        ]
    return findings


@dataclass(frozen=True)
class Crowd:
    """Streams that are all called at once, by clients that can wait."""

    streams: int
    kind: str = "short text"
    deadline: float = 120.0


def well_behaved(serve: Serve, crowd: Crowd) -> list[Finding]:
    """Call every stream at once with a deadline that leaves the server the time for all; none may be refused."""
    server_cores, client_cores = cores()
    with serve(cores=server_cores) as server, load(server, client_cores) as generator:
        generator.order(kind=crowd.kind, at_once=48, seconds=1)
        seen = generator.order(kind=crowd.kind, at_once=crowd.streams, seconds=0, deadline=crowd.deadline)
    attack = f"{crowd.streams:,} streams at once of kind {crowd.kind}, {crowd.deadline:g} s each"
    failed = {name: count for name, count in seen["statuses"].items() if name != "OK"}
    return [
        Finding(
            f"{attack}: not finished",
            crowd.streams - seen["answered"],
            "streams",
            0,
            notes=f"{failed or ''} {seen['details'] or ''} {seen['seconds']:.1f} s",
        ),
        Finding(f"{attack}: health, p99", 1e3 * seen["health_p99"], "ms", 100, by_clock=True),
    ]


CROWD_SMALL: Final = (Crowd(600),)
CROWD_FULL: Final = (Crowd(5000), Crowd(5000, "text", 300), Crowd(5000, "score", 300))
SMALL: Final = (Sizes((10.0,)),)
FULL: Final = (
    Sizes((0.8, 1.0, 2.0, 5.0, 10.0), closed_seconds=6, seconds=15, recovery_seconds=5),
    Sizes((10.0,), burst=100, closed_seconds=6, seconds=15, recovery_seconds=5),
    Sizes((2.0, 10.0), "score", closed_seconds=6, seconds=15, recovery_seconds=5),
    Sizes((2.0, 10.0), "prompt", at_once=8, closed_seconds=15, seconds=15, recovery_seconds=5),
    Sizes((10.0,), hidden=1024, at_once=12, closed_seconds=20, seconds=30, recovery_seconds=5),  # no more fit
)
