"""Put CloudWatch's metrics into a log line.

Format: Amazon CloudWatch, "Specification: Embedded metric format".
"""

import time
from collections.abc import Mapping
from typing import Any

NAMESPACE = "lmi-chat"
EMBEDDED: Mapping[str, str] = {
    "prompt_tokens": "Count",
    "completion_tokens": "Count",
    "cached_tokens": "Count",
    "reasoning_tokens": "Count",
    "queue_seconds": "Seconds",
    "ttft_seconds": "Seconds",
    "prefill_seconds": "Seconds",
    "decode_seconds": "Seconds",
    "total_seconds": "Seconds",
}
"""Fields of a log line that are metrics to CloudWatch, with their units there."""


def embedded(line: dict[str, Any], *, keeps_all: bool = True) -> dict[str, Any]:
    """Add to a log line the metrics that CloudWatch reads out of it; without `keeps_all` these are alone.

    Metrics that have no value are not named, since each name must point to a number.
    """
    found = {name: line[name] for name in EMBEDDED if line[name] is not None}
    dimensions = {"Model": line["model"] or "none", "Dialect": line["dialect"] or "none", "Status": str(line["status"])}
    counts = {"requests": 1, "errors": int(line["error"] is not None)}
    units = {name: EMBEDDED[name] for name in found} | dict.fromkeys(counts, "Count")
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["Model"], ["Model", "Dialect", "Status"]],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit in units.items()],
    }
    metadata = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
    return (line if keeps_all else {}) | {"_aws": metadata} | dimensions | counts | found
