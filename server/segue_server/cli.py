"""The `segue serve` command."""

import os
from pathlib import Path
from typing import Final

import click

_DAY: Final = 86_400.0
_MEGABYTE: Final = 1_000_000


@click.command()
@click.argument("models", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=50051, show_default=True, help="Port; 0: any free one.")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Port of Prometheus metrics, at /metrics; 0: any free one, named in the log.  [default: none]",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "auto"]),
    default="auto",
    show_default=True,
    help="Where models run. cuda: fail without CUDA. auto: CUDA if it works, otherwise the CPU.",
)
@click.option(
    "--batching",
    type=click.Choice(["fixed", "free"]),
    default="fixed",
    show_default=True,
    help="On CUDA. fixed: runs of one size, so that results never depend on who else is served. free: faster for one "
    "stream and for thousands, and results may depend on it.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "float16", "tf32"]),
    default="auto",
    show_default=True,
    help="Of matrix products on CUDA. auto: float16 where export has measured that perplexity rises by 0.5 % at most.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU cores for one step of a model."
)
@click.option(
    "--strict",
    is_flag=True,
    help="Do not start if a version to be served is damaged. Otherwise the log says so, and the newest sound one is "
    "served.",
)
@click.option(
    "--memory-mb",
    type=click.FloatRange(0, min_open=True),
    help="Memory for what clients cause: requests, prompts, replies, buffers, states; more calls get "
    "RESOURCE_EXHAUSTED.  [default: half of the container's or the machine's]",
)
@click.option(
    "--max-sequences",
    type=click.IntRange(1),
    help="Streams and texts served at once; more get RESOURCE_EXHAUSTED.  "
    "[default: what the model's speed and --memory-mb allow]",
)
@click.option(
    "--max-wait",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="Seconds that the work before a call may take; otherwise it gets RESOURCE_EXHAUSTED at once. A call with a "
    "deadline may wait for half of its time.",
)
@click.option(
    "--request-timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds for a request to arrive.",
)
@click.option(
    "--stall-timeout",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds that a client may leave a reply or its stream unread before the call fails.",
)
@click.option(
    "--idle-timeout",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds that a stream of text to score may send nothing before it ends with a ticket.",
)
@click.option(
    "--max-duration",
    type=click.FloatRange(0, min_open=True),
    help="Seconds that a stream may last before it ends with a ticket.  [default: any time]",
)
@click.option(
    "--drain-lag",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Seconds from NOT_SERVING to the first refused call.",
)
@click.option(
    "--drain-grace",
    type=click.FloatRange(0),
    default=20.0,
    show_default=True,
    help="Seconds that streams may continue after SIGTERM and --drain-lag before they end with a ticket.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, readable=False, path_type=Path),
    envvar="SEGUE_STATE",
    show_envvar=True,
    help="Folder for the server's own files.  [default: ~/.local/state/segue]",
)
@click.option(
    "--keys",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),
    envvar="SEGUE_KEYS",
    show_envvar=True,
    help="File of the keys that seal tickets and sessions; created if missing. Replicas share one.  "
    "[default: keys in --state]",
)
@click.option(
    "--sessions",
    metavar="URL",
    envvar="SEGUE_SESSIONS",
    show_envvar=True,
    help="Where sessions are kept: sqlite:PATH, redis://HOST:PORT[/DATABASE] or memory:.  "
    "[default: sqlite, in --state]",
)
@click.option(
    "--session-gb",
    type=click.FloatRange(0, min_open=True),
    help="Size limit of all sessions; a full store refuses new ones. For Redis, set its own maxmemory.  "
    "[default: 16 for sqlite:, 1 for memory:]",
)
@click.option(
    "--ticket-days",
    type=click.FloatRange(0, 36_500, min_open=True),
    default=30.0,
    show_default=True,
    help="Days until a ticket expires.",
)
@click.option(
    "--session-days",
    type=click.FloatRange(0, 3_650, min_open=True),
    default=7.0,
    show_default=True,
    help="Days that an unused session is kept, unless its client asks for another time.",
)
@click.option(
    "--prefix-cache-mb",
    type=click.FloatRange(0),
    default=64.0,
    show_default=True,
    help="Memory for caching the states of prompts, in MB; 0: no cache.",
)
@click.option("--insecure", is_flag=True, help="Listen beyond this machine, unencrypted and unauthenticated.")
def serve(  # noqa: PLR0913 - one parameter for each option
    *,
    models: Path,
    host: str,
    port: int,
    metrics_port: int | None,
    device: str,
    batching: str,
    precision: str,
    threads: int,
    strict: bool,
    memory_mb: float | None,
    max_sequences: int | None,
    max_wait: float,
    request_timeout: float,
    stall_timeout: float,
    idle_timeout: float,
    max_duration: float | None,
    drain_lag: float,
    drain_grace: float,
    state: Path | None,
    keys: Path | None,
    sessions: str | None,
    session_gb: float | None,
    ticket_days: float,
    session_days: float,
    prefix_cache_mb: float,
    insecure: bool,
) -> None:
    """Serve the newest version of every model in the folder MODELS over gRPC.

    Prints one line `ready: HOST:PORT` once it serves; logs go to standard error. SIGTERM or Ctrl-C drains: running
    streams end, or get a ticket to continue on another server. A second one ends at once.
    """
    from segue_server.stop_signals import StopSignals

    signals = StopSignals()
    signals.handle()  # before the slow imports

    from segue_server.standard_streams import fill_closed_streams
    from segue_server.thread_priority import wait_for_turns

    fill_closed_streams()
    host = _host(host, insecure=insecure)

    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    wait_for_turns()  # before there are other threads

    import uvloop

    # gRPC's core writes lines of its own about what clients send, past any limit; it reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from segue_server.api.calls.call import Patience
    from segue_server.api.services.session import IdleTimes
    from segue_server.engine.model import Device
    from segue_server.engine.runners.settings import Batching, DeviceSettings, Precision
    from segue_server.server import ServerConfig, serve
    from segue_server.state.folder import locate

    key_file, session_url = locate(state, keys, sessions)
    default_idle = max(1, round(session_days * _DAY))
    config = ServerConfig(
        models=models,
        keys=key_file,
        sessions=session_url,
        max_session_bytes=None if session_gb is None else max(1, round(session_gb * 1e9)),
        host=host,
        port=port,
        metrics_port=metrics_port,
        device=Device(device),
        threads=threads,
        device_settings=DeviceSettings(Batching(batching).buckets, Precision(precision)),
        strict=strict,
        memory_bytes=None if memory_mb is None else max(1, round(memory_mb * _MEGABYTE)),
        max_sequences=max_sequences,
        longest_wait=max_wait,
        patience=Patience(request_timeout, stall_timeout, idle_timeout, max_duration),
        drain_lag=drain_lag,
        drain_grace=drain_grace,
        ticket_lifetime=ticket_days * _DAY,
        prefix_cache_bytes=round(prefix_cache_mb * _MEGABYTE),
        idle_times=IdleTimes(default_idle, max(default_idle, IdleTimes.longest)),
    )
    uvloop.run(serve(config, signals))  # a refused call costs it a sixth less than asyncio's own loop


def _host(text: str, *, insecure: bool) -> str:
    """Read --host; raises UsageError."""
    from segue_server.address import BadHost, is_of_this_machine_alone, read_host

    try:
        host = read_host(text)
    except BadHost as error:
        raise click.UsageError(str(error)) from error
    if not (insecure or is_of_this_machine_alone(host)):
        raise click.UsageError(
            f"--host {text} can be reached from other machines, and the connection is neither encrypted nor "
            "authenticated; pass --insecure if the network is trusted"
        )
    return host
