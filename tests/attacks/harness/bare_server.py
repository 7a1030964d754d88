"""A gRPC server that does nothing but refuse: what asyncio and gRPC cost by themselves. A process of its own.

Prints `ready: HOST:PORT`, as `segue serve` does, and ends at SIGTERM.
"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.rpc import status_pb2

PROGRAM: Final = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
    "from attacks.harness.bare_server import main; main()"
)
"""Python code that runs it."""

_DETAILS: Final = status_pb2.Status(
    code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="as long as reasons and hints: " * 5
)
_HINTS: Final = (("grpc-retry-pushback-ms", "100"), ("grpc-status-details-bin", _DETAILS.SerializeToString()))


async def _refuse(_: Any, context: Any) -> None:
    context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
    context.set_details("retry later")
    context.set_trailing_metadata(_HINTS)


async def serve() -> None:
    """Serve until SIGTERM."""
    server, stopped = grpc.aio.server(), asyncio.Event()
    handlers = {"Generate": grpc.unary_stream_rpc_method_handler(_refuse)}
    service = grpc.method_handlers_generic_handler("segue.v1.GenerationService", handlers)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    sys.stdout.write(f"ready: 127.0.0.1:{port}\n")
    sys.stdout.flush()
    await stopped.wait()
    await server.stop(0)


def main() -> None:
    """Serve."""
    asyncio.run(serve())
