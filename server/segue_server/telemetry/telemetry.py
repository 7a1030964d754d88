"""All telemetry of a server, started and stopped together."""

import asyncio
import logging
from typing import Final

from prometheus_client import CollectorRegistry

from segue_server.address import joined_address
from segue_server.telemetry.grpc_log import limit_grpc_log
from segue_server.telemetry.http_port import HttpPort
from segue_server.telemetry.loop_lag import LoopLag
from segue_server.telemetry.rate_limited_log import client_faults

_FLUSH_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class Telemetry:
    """Watches the running event loop, keeps the log short, and serves metrics and health if there is a port."""

    def __init__(self, metrics: CollectorRegistry) -> None:
        self.serving = False
        """What /health says."""
        limit_grpc_log()
        self._metrics = metrics
        self._lag = LoopLag(metrics)
        self._http: HttpPort | None = None
        self._flushing = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush)

    async def listen(self, host: str, port: int) -> None:
        """Serve metrics and health over HTTP; the log says where. Raises StartupError."""
        self._http = HttpPort(self._metrics, lambda: self.serving)
        port = await self._http.start(host, port)
        _log.info("metrics: http://%s/metrics", joined_address(host, port))

    def close(self) -> None:
        """Stop all of it."""
        self._lag.stop()
        self._flushing.cancel()
        client_faults.flush()
        if self._http is not None:
            self._http.close()

    def _flush(self) -> None:
        client_faults.flush()
        self._flushing = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._flush)
