"""Print the table of our own metrics in docs/observability.md anew from the code: `python -m` this module."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

import lmi_chat.observability.metrics  # noqa: F401 registers them

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
OWN = ("lmi_chat_", "http_")


def printed(page: str) -> str:
    """`page` with the table as it has to be."""
    before, rest = page.split("<!-- ours -->\n")
    _, after = rest.split("<!-- /ours -->\n")
    return "\n".join([f"{before}<!-- ours -->", *_rows(), f"<!-- /ours -->\n{after}"])


def _rows() -> Iterator[str]:
    yield "| metric | kind | labels | what it tells |"
    yield "|---|---|---|---|"
    for metric in _metrics():
        name = metric._name + ("_total" if isinstance(metric, Counter) else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        yield f"| `{name}` | {metric._type} | {labels} | {metric._documentation} |"


def _metrics() -> Iterator[Any]:
    for metric in sorted(REGISTRY._collector_to_names, key=lambda one: getattr(one, "_name", "")):
        if isinstance(metric, Counter | Gauge | Histogram) and metric._name.startswith(OWN):
            yield metric


if __name__ == "__main__":
    PAGE.write_text(printed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
