"""Write a registry's metrics as text: the library writes each series once, later only its numbers are replaced.

At each scrape the library makes an object of every sample and formats all its labels, which takes 6 to 12 ms for vLLM's
metrics. The text here is the library's own, byte for byte, without exemplars. Metrics that are no counters, gauges or
histograms, and series that do not come out as they were learnt, the library writes each time.

Leans on: prometheus_client keeping a metric's series in `_metrics`, their numbers in `_value`, `_sum` and `_buckets`.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.utils import floatToGoString

OPEN_TYPE, OPEN_VERSIONS = "application/openmetrics-text", ("", "1.0.0")
END = "# EOF\n"
SECOND = "\n# HELP "
"""What begins a metric's second part in plain text, the times at which its series began."""
SHORT_BELOW = 1e6
"""Numbers from 0 to this are written as Python writes them."""
Encode = Callable[[Any], bytes]


class _Families:
    """A registry of given families of samples."""

    def __init__(self, *metrics: Any) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Any]:
        return self._metrics


class _Series:
    """One series: its samples, and in plain text the head of the second part and its sample there."""

    def __init__(self, child: Any, samples: str, head: str, began: str) -> None:
        """Read what the library wrote of `child`, a counter, gauge or histogram without further labels."""
        self.head, self.began = head, began
        lines = samples.splitlines(keepends=True)
        count = len(_numbers(child))
        holes = [line[: line.rindex(" ") + 1].replace("%", "%%") + "%s\n" for line in lines[:count]]
        self._text = "".join([*holes, *(line.replace("%", "%%") for line in lines[count:])])
        self._child = child
        self.is_known = "_child_samples" not in vars(child) and self.samples() == samples

    def samples(self) -> str:
        """Write its samples with the numbers of now."""
        return self._text % tuple(map(_written, _numbers(self._child)))


class _Family:
    """One metric with its series."""

    def __init__(self, metric: Any, encode: Encode) -> None:
        self._metric, self._encode = metric, encode
        self._head = self._by_library()
        self._known: dict[Any, _Series] = {}

    def write(self) -> str:
        """Write it with the numbers of now."""
        known: dict[Any, _Series] = {}
        samples, began, head = [self._head], [], ""
        for labels, child in _children(self._metric):
            series = self._known.get(child)
            if series is None:
                text, head, began_text = self._learn(labels, child)
                series = _Series(child, text, head, began_text)
            else:
                text = series.samples()
            if series.is_known:
                known[child] = series
            samples.append(text)
            began.append(series.began)
            head = series.head
        self._known = known
        return "".join([*samples, head, *began])

    def _learn(self, labels: Sequence[str], child: Any) -> tuple[str, str, str]:
        named = dict(zip(self._metric._labelnames, labels, strict=True))  # noqa: SLF001 prometheus_client's
        text = self._by_library(child, named).removeprefix(self._head)
        samples, mark, second = text.partition(SECOND)
        if not mark:
            return text, "", ""
        lines = (mark[1:] + second).splitlines(keepends=True)
        return samples + "\n", "".join(lines[:2]), "".join(lines[2:])

    def _by_library(self, child: Any = None, labels: Mapping[str, str] | None = None) -> str:
        """Let the library write the metric, with one of its series or none."""
        family = self._metric._get_metric()  # noqa: SLF001 prometheus_client's
        if child is not None:
            for sample in child._child_samples():  # noqa: SLF001 prometheus_client's
                family.add_sample(family.name + sample.name, {**(labels or {}), **sample.labels}, sample.value)
        return self._encode(_Families(family)).decode().removesuffix(END)


class Exposition:
    """The text of a registry in one format."""

    def __init__(self, encode: Encode, content_type: str, registry: CollectorRegistry = REGISTRY) -> None:
        """Write as `encode` does, one of prometheus_client's."""
        self.content_type = content_type
        self._encode, self._registry = encode, registry
        self._end = encode(_Families()).decode()  # END, or nothing
        self._families: dict[Any, _Family] = {}
        self._writing = threading.Lock()

    def write(self) -> bytes:
        """Return the text with the numbers of now; from any thread."""
        with self._writing:
            with self._registry._lock:  # noqa: SLF001 prometheus_client's
                collectors = copy.copy(self._registry._collector_to_names)  # noqa: SLF001 prometheus_client's
            families: dict[Any, _Family] = {}
            texts = []
            for collector in collectors:
                family = self._families.get(collector)
                if family is None and isinstance(collector, Counter | Gauge | Histogram):
                    family = _Family(collector, self._encode)
                if family is None:
                    texts.append(self._encode(collector).decode().removesuffix(END))
                else:
                    families[collector] = family
                    texts.append(family.write())
            self._families = families
        return "".join([*texts, self._end]).encode()


PLAIN = Exposition(generate_latest, CONTENT_TYPE_PLAIN_0_0_4)
# Names as they are: by default the library makes `vllm_…` of `vllm:…`, though a colon is allowed.
OPEN = Exposition(partial(openmetrics.generate_latest, escaping=ALLOWUTF8), openmetrics.CONTENT_TYPE_LATEST)


def choose(accept: str) -> Exposition:
    """Choose the format that an Accept header asks for first, as Prometheus' own client libraries do."""
    for asked in accept.split(","):
        kind, *parameters = (part.strip() for part in asked.split(";"))
        version = next((text.removeprefix("version=") for text in parameters if text.startswith("version=")), "")
        if kind == OPEN_TYPE and version in OPEN_VERSIONS:
            return OPEN
        if kind == "text/plain":
            break
    return PLAIN


def _children(metric: Any) -> Iterable[tuple[Sequence[str], Any]]:
    """List the series of a metric, each with the values of its labels."""
    if not metric._is_parent():  # noqa: SLF001 prometheus_client's
        return (((), metric),)
    with metric._lock:  # noqa: SLF001 prometheus_client's
        return list(metric._metrics.items())  # noqa: SLF001 prometheus_client's


def _numbers(child: Any) -> list[float]:
    """The numbers of a series in the order of its samples."""
    if settle := getattr(child, "settle", None):
        settle()
    if not isinstance(child, Histogram):
        return [child._value.get()]  # noqa: SLF001 prometheus_client's
    counts = [*accumulate(bucket.get() for bucket in child._buckets)]  # noqa: SLF001 prometheus_client's
    has_sum = child._upper_bounds[0] >= 0  # noqa: SLF001 prometheus_client's; else it may go back
    return [*counts, counts[-1], child._sum.get()] if has_sum else [*counts, counts[-1]]  # noqa: SLF001 the same


def _written(number: float) -> str:
    return repr(number) if 0 <= number < SHORT_BELOW else str(floatToGoString(number))  # type: ignore[no-untyped-call]
