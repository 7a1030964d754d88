"""The server's life cycle: load, check, announce, serve, drain."""

import asyncio
import gc
import logging
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health_aio
from grpc_reflection.v1alpha import reflection
from segue.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    scoring_pb2,
    scoring_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)
from segue_export.artifact import find_artifacts, read_artifact
from segue_export.errors import ArtifactError

from segue_server.api.encoding import prepare_normalization
from segue_server.api.interceptor import CallInterceptor
from segue_server.api.services.generation import GenerationService
from segue_server.api.services.model import ModelService
from segue_server.api.services.scoring import ScoringService
from segue_server.api.services.session import IdleTimes, SessionService
from segue_server.engine.build import Build
from segue_server.engine.engine import Engine
from segue_server.engine.model import Device, Model
from segue_server.errors import StartupError
from segue_server.limits import MAX_MESSAGE_BYTES
from segue_server.metrics import serve_metrics
from segue_server.prefix_cache.cache import PrefixCache
from segue_server.runtime.admission import Admission
from segue_server.runtime.engine_thread import EngineThread
from segue_server.runtime.registry import Registry, Served
from segue_server.runtime.self_check import check
from segue_server.state.key_ring import KeyRing, make_key_file
from segue_server.state.sessions import Sessions
from segue_server.state.start import StartResolver
from segue_server.state.stores import open_store
from segue_server.state.stores.store import SessionStore
from segue_server.state.tickets import TicketCodec

SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (generation_pb2, "GenerationService"),
        (scoring_pb2, "ScoringService"),
        (session_pb2, "SessionService"),
        (model_pb2, "ModelService"),
    )
)

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),  # replies are bounded by the limits of requests
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a few KB could unpack to GB
    # Bursts wait for the event loop, where admission refuses calls with a retry hint. gRPC's own limit would cancel
    # calls without one.
    ("grpc.server.max_pending_requests", 2**17),
    ("grpc.server.max_pending_requests_hard_limit", 2**17),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server at the same address
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)

_HEALTH_SECONDS: Final = 0.5
_LAST_MESSAGES_SECONDS: Final = 2.0
"""For the last message of each drained stream to reach its client."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerConfig:
    """The options of `segue serve`."""

    models: Path
    keys: Path
    """The file of the keys that seal tickets and sessions; created if missing."""
    sessions: str
    """Where sessions are kept; see `stores`."""
    max_session_bytes: int | None = None
    """For all sessions; None: the store's default."""
    host: str = "127.0.0.1"
    port: int = 50051
    """0: any free port, named in the `ready` line."""
    metrics_port: int | None = None
    """Of the Prometheus metrics, on the same host; 0: any free port, named in the log; None: no metrics."""
    device: Device = Device.AUTO
    threads: int = 1
    """Cores that one step of a model may use."""
    max_sequences: int = 8192
    """Streams and texts served at once; each takes about 50 KB plus a state and its prompt."""
    stall_timeout: float = 60.0
    """Seconds that a client may leave its stream unread."""
    drain_lag: float = 0.0
    """Seconds between NOT_SERVING and the first refused call, for load balancers to notice."""
    drain_grace: float = 20.0
    """Seconds that running streams may continue after that before they end with a ticket."""
    ticket_lifetime: float = 30 * 86_400.0
    """Seconds."""
    prefix_cache_bytes: int = 64_000_000
    """For the states of earlier prompts; 0: no cache."""
    idle_times: IdleTimes = field(default_factory=IdleTimes)
    """Of sessions."""


async def serve(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises StartupError, also if an engine fails later."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    make_key_file(config.keys)
    ring = KeyRing(config.keys)
    registry = Registry([_served(model, loop) for model in load_models(config)])
    health, interceptor = grpc_health_aio.HealthServicer(), CallInterceptor()
    store = await open_store(config.sessions, config.max_session_bytes)
    prefixes = PrefixCache(config.prefix_cache_bytes)
    server = _server(registry, health, interceptor, ring, store, prefixes, config)
    address = _bind(server, config)
    if config.metrics_port is not None:
        port = serve_metrics(registry, prefixes, config.host, config.metrics_port)
        _log.info("metrics: http://%s/metrics", _address(config.host, port))
    for served in registry:
        served.engine_thread.start()
    _settle_memory()
    await server.start()
    await _announce_health(health, health_pb2.HealthCheckResponse.SERVING)
    sys.stdout.write(f"ready: {address}\n")
    sys.stdout.flush()
    failed = await _wait_for_stop(stop, registry)
    await _announce_health(health, health_pb2.HealthCheckResponse.NOT_SERVING)
    if not failed:
        await _finish_calls(interceptor, config)
    for served in registry:
        served.engine_thread.drain()
    await server.stop(grace=_LAST_MESSAGES_SECONDS)
    if failed:
        raise StartupError("an engine failed; see the log above")
    for served in registry:
        served.engine_thread.stop()
    await store.close()


def _settle_memory() -> None:
    """Take what is loaded by now, and stays, out of the collector's sight: it would hold the event loop each time."""
    gc.collect()
    gc.freeze()


def load_models(config: ServerConfig) -> list[Model]:
    """Load the newest version of every model in the folder; raises StartupError, which names the bad one."""
    try:
        newest = {folder.parent: folder for folder in find_artifacts(config.models)}
        artifacts = [read_artifact(folder) for folder in newest.values()]
    except ArtifactError as error:
        raise StartupError(str(error), error.exit_code) from error
    return [Model(artifact, config.device, config.threads) for artifact in artifacts]


def _served(model: Model, loop: asyncio.AbstractEventLoop) -> Served:
    found = check(model)
    prepare_normalization(model)
    _log.info(
        "model %s version %d on %s: results %s on batching; host class %s",
        *(model.name, model.version, model.provider, "do not depend" if found.reproducible else "MAY DEPEND"),
        found.host_class.hex(),
    )
    worker = EngineThread(Engine(model), loop, f"{model.name}/{model.version}")
    return Served(model, worker, found.reproducible, Build.of(model, found.host_class))


def _server(  # noqa: PLR0913, PLR0917 - all parts of a server
    registry: Registry,
    health: grpc_health_aio.HealthServicer,
    interceptor: CallInterceptor,
    ring: KeyRing,
    store: SessionStore,
    prefixes: PrefixCache,
    config: ServerConfig,
) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=[interceptor], options=CHANNEL_OPTIONS)
    admission = Admission(config.max_sequences)
    ticket_codec, sessions = TicketCodec(ring, config.ticket_lifetime), Sessions(store, ring)
    start_resolver = StartResolver(ticket_codec, sessions)
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(
        GenerationService(registry, admission, start_resolver, prefixes, config.stall_timeout), server
    )
    scoring_pb2_grpc.add_ScoringServiceServicer_to_server(
        ScoringService(registry, admission, start_resolver, config.stall_timeout), server
    )
    session_pb2_grpc.add_SessionServiceServicer_to_server(
        SessionService(registry, admission, start_resolver, ticket_codec, sessions, config.idle_times), server
    )
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(registry, prefixes), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
    return server


def _bind(server: grpc.aio.Server, config: ServerConfig) -> str:
    """Listen on the address of `config`; return the actual one."""
    wanted = _address(config.host, config.port)
    try:
        port = server.add_insecure_port(wanted)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {wanted}: the port is in use, or the address is not of this machine; "
            "choose another --port (0: any free one) or --host"
        ) from error
    return _address(config.host, port)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _announce_health(
    health: grpc_health_aio.HealthServicer, status: health_pb2.HealthCheckResponse.ServingStatus
) -> None:
    for name in ("", *SERVICES):
        with suppress(TimeoutError):  # one watcher that does not read must not delay the others
            async with asyncio.timeout(_HEALTH_SECONDS):
                await health.set(name, status)


async def _wait_for_stop(stop: asyncio.Event, registry: Registry) -> bool:
    """Wait for the stop signal or for an engine to fail; return whether one failed."""
    events = [stop, *(served.engine_thread.failed for served in registry)]
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return not stop.is_set()


async def _finish_calls(interceptor: CallInterceptor, config: ServerConfig) -> None:
    """After the lag, refuse new calls; give running calls the grace period to end."""
    _log.info("stopping: no new calls; up to %g s for running ones", config.drain_grace)
    await asyncio.sleep(config.drain_lag)
    interceptor.refuse_new_calls()
    with suppress(TimeoutError):
        async with asyncio.timeout(config.drain_grace):
            await interceptor.all_answered()
