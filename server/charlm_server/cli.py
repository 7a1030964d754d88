"""The `charlm serve` command."""

from pathlib import Path

import click


@click.command()
@click.argument("models", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=50051, show_default=True, help="Port; 0: any free one.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "auto"]),
    default="auto",
    show_default=True,
    help="Where models run. cuda: exit where there is none. auto: CUDA where it works, otherwise the CPU.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Cores that one step of a model may use."
)
@click.option(
    "--max-sequences",
    type=click.IntRange(1),
    default=8192,
    show_default=True,
    help="Streams and texts that are served at once; beyond them, RESOURCE_EXHAUSTED.",
)
@click.option(
    "--stall-timeout",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds that a client may leave its stream unread before it is ended.",
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
    help="Seconds that streams may go on after SIGTERM before they end with a ticket.",
)
@click.option(
    "--insecure", is_flag=True, help="Listen beyond this machine although nothing is encrypted or authenticated."
)
def serve(  # noqa: PLR0913 - one parameter for each option
    *,
    models: Path,
    host: str,
    port: int,
    device: str,
    threads: int,
    max_sequences: int,
    stall_timeout: float,
    drain_lag: float,
    drain_grace: float,
    insecure: bool,
) -> None:
    """Serve the newest version of every model in the folder MODELS over gRPC.

    Prints one line `ready: HOST:PORT` when it serves; logs go to standard error. SIGTERM drains: running streams
    end or get a ticket to continue elsewhere.
    """
    if not (insecure or host in ("127.0.0.1", "::1", "localhost")):
        raise click.UsageError(
            f"--host {host} can be reached from other machines, and the connection is neither encrypted nor "
            "authenticated; say --insecure if the network around it is trusted"
        )
    import asyncio
    import logging

    from charlm_server.model import Device
    from charlm_server.serving import ServerConfig, serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = ServerConfig(
        models, host, port, Device(device), threads, max_sequences, stall_timeout, drain_lag, drain_grace
    )
    asyncio.run(serve(config))
