"""Metrics of the loaded models, for Prometheus.

    segue_live_sequences                     streams and texts in the engine now
    segue_prefix_cache_prompts_total         prompts, by `result`: "hit" (a part was cached) or "miss"
    segue_prefix_cache_symbols_saved_total   symbols that were cached
    segue_prefix_cache_states                states in the cache now
    segue_prefix_cache_bytes                 memory used by the cache
    segue_skipped_version                    1 for each version that was found damaged and is not served
    segue_backlog_seconds                    how long what an engine has to do will take
    segue_symbols_per_second                 what an engine reads and writes in full batches, as measured lately
    segue_places, segue_places_taken         for streams and texts
    segue_memory_bytes, ..._taken_bytes      for requests, prompts, replies and buffers
    segue_refused_calls_total                calls refused for want of a `resource`: "time", "places" or "memory"
    process_...                              CPU time, memory and open files of the server

The labels of the models' metrics are name and version. Nothing from a client becomes a label.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from segue_server.prefix_cache.cache import PrefixCache
from segue_server.runtime.admission import Admission
from segue_server.runtime.registry import Registry

_LABELS: Final = ("model", "version")


class _Models(Collector):
    """Collects the values on demand, in the metrics thread: each is right, two may be a prompt apart."""

    def __init__(self, registry: Registry, prefixes: PrefixCache) -> None:
        self._skipped = registry.skipped
        self._models = [(served, prefixes.counts(served.model)) for served in registry]

    def collect(self) -> Iterator[Metric]:
        live = GaugeMetricFamily("segue_live_sequences", "Streams and texts in the engine.", labels=_LABELS)
        prompts = CounterMetricFamily(
            "segue_prefix_cache_prompts", "Prompts looked up in the cache.", labels=(*_LABELS, "result")
        )
        saved = CounterMetricFamily(
            "segue_prefix_cache_symbols_saved", "Symbols of prompts that were cached.", labels=_LABELS
        )
        states = GaugeMetricFamily("segue_prefix_cache_states", "States in the cache.", labels=_LABELS)
        taken = GaugeMetricFamily("segue_prefix_cache_bytes", "Memory used by the cache.", labels=_LABELS)
        backlog = GaugeMetricFamily("segue_backlog_seconds", "The time that an engine's work takes.", labels=_LABELS)
        rate = GaugeMetricFamily("segue_symbols_per_second", "The speed of full batches.", labels=_LABELS)
        for served, counts in self._models:
            labels = (served.model.name, str(served.model.version))
            live.add_metric(labels, served.engine_thread.live)
            prompts.add_metric((*labels, "hit"), counts.hits)
            prompts.add_metric((*labels, "miss"), counts.misses)
            saved.add_metric(labels, counts.symbols_saved)
            states.add_metric(labels, counts.states)
            taken.add_metric(labels, counts.bytes)
            backlog.add_metric(labels, served.engine_thread.backlog.seconds)
            rate.add_metric(labels, served.engine_thread.rate)
        skipped = GaugeMetricFamily("segue_skipped_version", "Damaged versions that are not served.", labels=_LABELS)
        for each in self._skipped:
            skipped.add_metric((each.name, str(each.version)), 1)
        yield from (skipped, live, prompts, saved, states, taken, backlog, rate)


class _Capacity(Collector):
    """What the clients share, and what was refused."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> Iterator[Metric]:
        places, memory = self._admission.places, self._admission.memory
        yield GaugeMetricFamily("segue_places", "Places for streams and texts.", places.total)
        yield GaugeMetricFamily("segue_places_taken", "Places that are taken.", places.taken)
        yield GaugeMetricFamily("segue_memory_bytes", "Memory for requests, replies and buffers.", memory.total)
        yield GaugeMetricFamily("segue_memory_taken_bytes", "How much of it is taken.", memory.taken)
        refused = CounterMetricFamily("segue_refused_calls", "Calls refused for want of it.", labels=("resource",))
        for resource, count in (("time", self._admission.late), ("places", places.refused), ("memory", memory.refused)):
            refused.add_metric((resource,), count)
        yield refused


def collect_metrics(registry: Registry, prefixes: PrefixCache, admission: Admission) -> CollectorRegistry:
    """Return what is to be served, for others to add theirs."""
    metrics = CollectorRegistry()
    metrics.register(_Models(registry, prefixes))
    metrics.register(_Capacity(admission))
    ProcessCollector(registry=metrics)
    return metrics
