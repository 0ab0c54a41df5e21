"""Count the observations of vLLM's metrics together, and add them to Prometheus' figures in one go.

A request ends with some twenty observations and each step brings as many counts: one by one, each behind a lock of its
own, they are a fifth of the Python calls of a short chat's intake. Here each is put on a list, which is added up when
the metric is read or after SETTLE_STEPS steps, so that a scrape misses nothing.

Leans on: PrometheusStatLogger making its metrics by `_counter_cls`, `_histogram_cls` and `_gauge_cls`,
prometheus_client keeping their figures in `_value`, `_sum` and `_buckets`, their series in `_metrics`, and reading them
by `_child_samples`. `loggers` looks whether it does.
"""

import logging
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, values

SETTLE_STEPS = 64
WAITING_MOST = 4096
"""Observations of steps that wait to be added; a quarter of a millisecond's work."""
ADAPTER_LISTS = "vllm:lora_requests_info"
LISTS_MOST = 32
"""Lists of adapters that keep a series of their own."""
log = logging.getLogger(__name__)


class _Gathered:
    """The figures of one set of labels that wait to be added. One thread adds to them, any may settle them."""

    def __init__(self) -> None:
        self._waiting: list[float] = []
        self._settling = Lock()
        self.add, self.add_all = self._waiting.append, self._waiting.extend

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> list[float]:
        """Remove what waits; what is added meanwhile stays."""
        with self._settling:
            taken = self._waiting[:]
            del self._waiting[: len(taken)]
        return taken


class GatheredCounter(Counter):
    """A Counter whose amounts are added up when it is read."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._gathered = _Gathered()

    def inc(self, amount: float = 1, exemplar: Mapping[str, str] | None = None) -> None:
        """Count `amount`, at least 0. Raises ValueError."""
        if amount > 0 and exemplar is None:
            self._gathered.add(amount)
        elif amount or exemplar:
            super().inc(amount, dict(exemplar or {}))

    def settle(self) -> None:
        """Add what waits."""
        if taken := self._gathered.take():
            self._value.inc(sum(taken))

    def _child_samples(self) -> Iterable[Any]:
        self.settle()
        return super()._child_samples()


class GatheredHistogram(Histogram):
    """A Histogram whose observations are added to its buckets when it is read."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._gathered = _Gathered()

    def observe(self, amount: float, exemplar: Mapping[str, str] | None = None) -> None:
        """Observe `amount`."""
        if exemplar is None:
            self._gathered.add(amount)
        else:
            super().observe(amount, dict(exemplar))

    def observe_all(self, amounts: list[float]) -> None:
        """Observe each of `amounts`, many of which are the same."""
        self._gathered.add_all(amounts)
        if len(self._gathered) > WAITING_MOST:
            self.settle()

    def settle(self) -> None:
        """Add what waits."""
        taken, bounds = self._gathered.take(), self._upper_bounds
        if not taken:
            return
        self._sum.inc(sum(taken))
        for amount, count in Tally(taken).items():
            if amount == amount:  # noqa: PLR0124 a number that is none belongs to no bucket, there too
                self._buckets[bisect_left(bounds, amount)].inc(count)

    def _child_samples(self) -> Iterable[Any]:
        self.settle()
        return super()._child_samples()


class AdaptersGauge(Gauge):
    """A Gauge of vLLM's that has a series for each list of adapters that there was; the newest are kept here.

    Its value is the time of the last step with that list. The adapters' names are those of requests, not those of their
    versions (`name:number`).
    """

    def labels(self, *values: object, **named: object) -> "AdaptersGauge":
        """See Gauge."""
        child = super().labels(*values, **{name: _names(value) for name, value in named.items()})
        with self._lock:
            key = child._labelvalues  # noqa: SLF001 prometheus_client's
            self._metrics[key] = self._metrics.pop(key, child)  # type: ignore[assignment]
            if len(self._metrics) > LISTS_MOST:
                del self._metrics[next(iter(self._metrics))]
        return child


def _names(value: object) -> object:
    """Cut the numbers off the names in a list of adapters."""
    if not isinstance(value, str) or ":" not in value:
        return value
    return ",".join(dict.fromkeys(name.rpartition(":")[0] or name for name in value.split(",")))


def loggers() -> Sequence[Any]:
    """Build the stat loggers to hand to an AsyncLLM: one in place of vLLM's own, or none where that has to do."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    if fault := _incompatibility(PrometheusStatLogger):
        log.warning("vLLM's metrics are counted one by one, which costs more: %s", fault)
        return ()

    class GatheringStatLogger(PrometheusStatLogger):
        """vLLM's metrics, whose counters and histograms gather, with bounds where they have none."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            self._gathering: list[Any] = []
            self._steps = 0
            super().__init__(*arguments, **named)

        def _counter_cls(self, *arguments: Any, **named: Any) -> Counter:
            self._gathering.append(metric := GatheredCounter(*arguments, **named))
            return metric

        def _histogram_cls(self, *arguments: Any, **named: Any) -> Histogram:
            self._gathering.append(metric := GatheredHistogram(*arguments, **named))
            return metric

        def _gauge_cls(self, *arguments: Any, **named: Any) -> Gauge:
            kind = AdaptersGauge if named.get("name") == ADAPTER_LISTS else Gauge
            return kind(*arguments, **named)

        def record(self, *arguments: Any, **named: Any) -> None:
            super().record(*arguments, **named)
            self._steps += 1
            if self._steps >= SETTLE_STEPS:  # nobody may ever read them
                self._steps = 0
                for metric in self._gathering:
                    for child in metric._metrics.values():  # noqa: SLF001 prometheus_client's
                        child.settle()

    return (GatheringStatLogger,)


def _incompatibility(owner: type) -> str:
    """Name the part of vLLM or prometheus_client that gathering cannot use, or ""."""
    if values.ValueClass is not values.MutexValue:
        return "several processes share them (PROMETHEUS_MULTIPROC_DIR)"
    kinds = [getattr(owner, f"_{kind}_cls", None) for kind in ("counter", "histogram", "gauge")]
    if kinds != [Counter, Histogram, Gauge]:
        return "its counters, histograms or gauges are others"
    counter, histogram = (kind("probe", "Of no registry.", ["of"], registry=None) for kind in (Counter, Histogram))
    needed = (
        (counter, ("_metrics",)),
        (counter.labels("one"), ("_value", "_metric_init", "_child_samples")),
        (histogram.labels("one"), ("_sum", "_buckets", "_upper_bounds", "_metric_init", "_child_samples")),
    )
    missing = [name for metric, names in needed for name in names if not hasattr(metric, name)]
    return f"prometheus_client's metrics have no {', '.join(missing)}" if missing else ""
