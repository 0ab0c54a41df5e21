"""Read the engine's figures, its gaps between tokens and its cache's use, out of Prometheus' registry."""

from collections import defaultdict

from prometheus_client import REGISTRY, CollectorRegistry

from lmi_chat.console.quantiles import Buckets, of_growth

GAPS, CACHE = "vllm:inter_token_latency_seconds_bucket", "vllm:kv_cache_usage_perc"


class EngineFigures:
    """vLLM's gaps between tokens and its cache's use, where its metrics are in the registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Read from `registry`."""
        self._registry = registry
        self._before: Buckets = {}

    def read(self) -> tuple[float | None, float | None, float | None]:
        """The part of the cache in use, and two quantiles, the half and 99 %, of the gaps since the last reading."""
        caches: list[float] = []
        buckets: defaultdict[float, float] = defaultdict(float)
        for metric in self._registry.restricted_registry((GAPS, CACHE)).collect():
            for sample in metric.samples:
                if sample.name == GAPS:
                    buckets[float(sample.labels["le"])] += sample.value
                else:
                    caches.append(sample.value)
        before, self._before = self._before, dict(buckets)
        cache = sum(caches) / len(caches) if caches else None
        if not before:
            return cache, None, None
        return cache, of_growth(before, buckets, 0.5), of_growth(before, buckets, 0.99)
