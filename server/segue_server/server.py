"""The server's life cycle: load, check, announce, serve, drain."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
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

from segue_server.address import joined_address
from segue_server.api.calls.call import Patience
from segue_server.api.calls.call_tasks import install
from segue_server.api.calls.interceptor import CallInterceptor
from segue_server.api.encoding import prepare_normalization
from segue_server.api.listener.acceptors import Acceptors
from segue_server.api.listener.channel_options import CHANNEL_OPTIONS
from segue_server.api.listener.connections import connection_options, limits_for
from segue_server.api.listener.free_port import check_free
from segue_server.api.listener.undecodable_paths import answer_undecodable_paths
from segue_server.api.services.generation import GenerationService
from segue_server.api.services.health import Health
from segue_server.api.services.model import ModelService
from segue_server.api.services.reflection import enable_reflection
from segue_server.api.services.scoring import ScoringService
from segue_server.api.services.session import IdleTimes, SessionService
from segue_server.engine.build import Build
from segue_server.engine.engine import Engine
from segue_server.engine.model import Device
from segue_server.engine.runners.settings import DeviceSettings
from segue_server.errors import StartupError
from segue_server.prefix_cache.cache import PrefixCache
from segue_server.runtime.admission import Admission, Capacity
from segue_server.runtime.engine_thread import EngineThread
from segue_server.runtime.garbage import IdleCollection
from segue_server.runtime.loading import LoadedModel, Loader
from segue_server.runtime.memory_limit import memory_limit
from segue_server.runtime.registry import Registry, Served
from segue_server.standard_streams import write_line
from segue_server.state.key_ring import KeyRing, open_key_ring
from segue_server.state.sessions import Sessions
from segue_server.state.start import StartResolver
from segue_server.state.stores import open_store
from segue_server.state.stores.memory import DEFAULT_MAX_BYTES
from segue_server.state.stores.store import SessionStore
from segue_server.state.tickets import TicketCodec, ticket_bytes
from segue_server.stop_signals import StopSignals
from segue_server.telemetry.memory_guard import MemoryGuard, resident_bytes
from segue_server.telemetry.metrics import collect_metrics
from segue_server.telemetry.telemetry import Telemetry

SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (generation_pb2, "GenerationService"),
        (scoring_pb2, "ScoringService"),
        (session_pb2, "SessionService"),
        (model_pb2, "ModelService"),
    )
)

_LAST_MESSAGES_SECONDS: Final = 2.0
"""For the last message of each drained stream to reach its client."""
_LAST_STATUS_SECONDS: Final = 0.5
"""For the watchers of the health service to be told."""

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
    device_settings: DeviceSettings = field(default_factory=DeviceSettings)
    """How models run on a device."""
    threads: int = 1
    """Cores that one step of a model may use, on the CPU."""
    strict: bool = False
    """Whether a damaged version of a model ends the start, instead of being skipped."""
    memory_bytes: int | None = None
    """For what clients cause: requests, prompts, replies, buffers, states. None: half of what the process may use."""
    max_sequences: int | None = None
    """Streams and texts served at once; None: what the models' speed and the memory allow."""
    longest_wait: float = 2.0
    """Seconds that the work before a call may take, if it has no deadline."""
    patience: Patience = field(default_factory=Patience)
    """With slow clients."""
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


async def serve(config: ServerConfig, signals: StopSignals) -> None:
    """Serve until `signals` ask for a stop, then drain. Raises StartupError, also if an engine fails later."""
    install(asyncio.get_running_loop())
    _check_ports(config)
    ring = open_key_ring(config.keys)
    registry = await _load(config)
    capacity = _capacity(registry, config)
    admission = Admission(capacity, config.longest_wait)
    health, interceptor = Health(SERVICES), CallInterceptor(registry, admission, config.patience)
    store = await open_store(config.sessions, config.max_session_bytes)
    prefixes = PrefixCache(config.prefix_cache_bytes)
    server, acceptors = _server(registry, admission, health, interceptor, ring, store, prefixes, config)
    address = _bind(server, config)
    telemetry = Telemetry(collect_metrics(registry, prefixes, admission))
    guard = MemoryGuard(admission, _most_bytes(capacity, config), interceptor.abandon_waiting)
    if config.metrics_port is not None:
        await telemetry.listen(config.host, config.metrics_port)
    for served in registry:
        served.engine_thread.start()
    signals.drain_when_asked()
    await server.start()
    if not acceptors.start():
        _log.warning("this version of grpcio accepts one call at a time: refusing calls costs more than it could")
    collection = IdleCollection(lambda: interceptor.is_busy)
    signals.notice()
    if signals.asked_by is None:
        telemetry.serving = True
        health.announce(health_pb2.HealthCheckResponse.SERVING)
        _announce(address)
    failed = await _wait_for_stop(signals, registry, server)
    telemetry.serving = False
    health.announce(health_pb2.HealthCheckResponse.NOT_SERVING)
    if not failed:
        await _finish_calls(signals, interceptor, config)
    await _end(server, registry, health, interceptor)
    telemetry.close()
    guard.stop()
    collection.stop()
    if failed:
        raise StartupError("an engine or gRPC failed; see the log above")
    for served in registry:
        await asyncio.to_thread(served.engine_thread.stop)
    await store.close()


def _check_ports(config: ServerConfig) -> None:
    """Raise StartupError if one of the ports cannot be listened on."""
    check_free(config.host, config.port)
    if config.metrics_port is not None:
        if config.metrics_port == config.port != 0:
            raise StartupError(f"--metrics-port {config.port} is --port too; choose another one (0: any free one)", 2)
        check_free(config.host, config.metrics_port, option="--metrics-port")


def _announce(address: str) -> None:
    try:
        write_line(f"ready: {address}")
    except OSError as error:  # whoever reads it is gone, or its disk is full: that ends no server
        _log.warning("the line 'ready: %s' could not be written to standard output: %s", address, error.strerror)


async def _load(config: ServerConfig) -> Registry:
    """Load the models in another thread: this one answers signals."""
    loop = asyncio.get_running_loop()
    loader = Loader(config.device, config.threads, config.device_settings, strict=config.strict)
    loaded = await asyncio.to_thread(loader.load, config.models)
    for each in loaded.models:
        await asyncio.to_thread(prepare_normalization, each.model)
    return Registry([_served(each, loop) for each in loaded.models], loaded.skipped)


def _served(loaded: LoadedModel, loop: asyncio.AbstractEventLoop) -> Served:
    model, found = loaded.model, loaded.found
    worker = EngineThread(Engine(model), loop, f"{model.name}/{model.version}", loaded.rate)
    return Served.of(model, worker, Build.of(model, found.host_class), reproducible=found.reproducible)


def _most_bytes(capacity: Capacity, config: ServerConfig) -> int:
    """Return how much memory the process may use, with what it uses now."""
    sessions = (config.max_session_bytes or DEFAULT_MAX_BYTES) if config.sessions == "memory:" else 0
    return min(round(0.9 * memory_limit()), resident_bytes() + capacity.memory + config.prefix_cache_bytes + sessions)


def _capacity(registry: Registry, config: ServerConfig) -> Capacity:
    """Return what the server shares among its clients, and log it."""
    memory = config.memory_bytes or memory_limit() // 2
    rate = max(served.engine_thread.rate for served in registry)
    state_bytes = max(ticket_bytes(served.model) for served in registry)
    capacity = Capacity.of(memory, rate, state_bytes, config.max_sequences)
    _log.info(
        "%d places for streams and texts, at %.0f characters a second; %d MB for what clients cause",
        *(capacity.places, rate, capacity.memory // 10**6),
    )
    return capacity


def _server(  # noqa: PLR0913, PLR0917 - all parts of a server
    registry: Registry,
    admission: Admission,
    health: Health,
    interceptor: CallInterceptor,
    ring: KeyRing,
    store: SessionStore,
    prefixes: PrefixCache,
    config: ServerConfig,
) -> tuple[grpc.aio.Server, Acceptors]:
    answer_undecodable_paths()
    limits = limits_for(config.host)
    _log.info("at most %d connections", limits.connections)
    server = grpc.aio.server(interceptors=[interceptor], options=(*CHANNEL_OPTIONS, *connection_options(limits)))
    ticket_codec, sessions = TicketCodec(ring, config.ticket_lifetime), Sessions(store, ring)
    start_resolver = StartResolver(ticket_codec, sessions)
    acceptors: Any = Acceptors(server, interceptor, interceptor.refusal)  # to the generated code it is a server
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(
        GenerationService(registry, admission, start_resolver, prefixes), acceptors
    )
    scoring_pb2_grpc.add_ScoringServiceServicer_to_server(
        ScoringService(registry, admission, start_resolver), acceptors
    )
    session_pb2_grpc.add_SessionServiceServicer_to_server(
        SessionService(registry, admission, start_resolver, ticket_codec, sessions, config.idle_times), server
    )
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(registry, prefixes), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    enable_reflection((*SERVICES, "grpc.health.v1.Health"), server)
    return server, acceptors


def _bind(server: grpc.aio.Server, config: ServerConfig) -> str:
    """Listen on the address of `config`; return the actual one."""
    wanted = joined_address(config.host, config.port)
    try:
        port = server.add_insecure_port(wanted)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {wanted}: the port is in use, or the address is not of this machine; "
            "choose another --port (0: any free one) or --host"
        ) from error
    return joined_address(config.host, port)


async def _wait_for_stop(signals: StopSignals, registry: Registry, server: grpc.aio.Server) -> bool:
    """Wait for a stop to be asked for, or an engine or gRPC to fail; return whether one failed."""
    ended = asyncio.ensure_future(server.wait_for_termination())  # not to be cancelled: it would take the server along
    failures = [served.engine_thread.failed.wait() for served in registry]
    waiting = [asyncio.ensure_future(each) for each in (signals.asked(), *failures)]
    await asyncio.wait([ended, *waiting], return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return signals.asked_by is None


async def _finish_calls(signals: StopSignals, interceptor: CallInterceptor, config: ServerConfig) -> None:
    """After the lag, refuse new calls; give running calls the grace period to end."""
    assert signals.asked_by is not None
    _log.info(
        "stopping on %s: no new calls after %g s, then up to %g s for running ones; another signal ends them at once",
        *(signals.asked_by.name, config.drain_lag, config.drain_grace),
    )
    await asyncio.sleep(config.drain_lag)
    interceptor.refuse_new_calls()
    with suppress(TimeoutError):
        async with asyncio.timeout(config.drain_grace):
            await interceptor.all_answered()


async def _end(server: grpc.aio.Server, registry: Registry, health: Health, interceptor: CallInterceptor) -> None:
    """End the calls that still run, each with its last message, then those of the health service's watchers."""
    for served in registry:
        served.engine_thread.drain()
    with suppress(TimeoutError):
        async with asyncio.timeout(_LAST_MESSAGES_SECONDS):
            await interceptor.all_sent()
    # gRPC closes a connection when its client has read what was sent before the stop began. What is sent later can be
    # lost: a socket that is closed with something unread resets its connection.
    await health.end_watches(_LAST_STATUS_SECONDS)
    await server.stop(grace=_LAST_STATUS_SECONDS)
