"""Print docs/grafana/lmi-chat.json, Grafana's dashboard of one server or several: `python -m` this module.

Format: Grafana's dashboard schema, version 42 (its package @grafana/schema).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.grafana_panels import ROWS, Panel

FILE = Path(__file__).parents[2] / "docs" / "grafana" / "lmi-chat.json"
SCHEMA_VERSION = 42
WIDTH, HEIGHT = 8, 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _targets(panel: Panel) -> Iterator[dict[str, Any]]:
    for place, (expression, legend) in enumerate(panel.queries):
        yield {
            "refId": chr(ord("A") + place),
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": expression,
            "format": "heatmap" if panel.kind == "heatmap" else "time_series",
            "legendFormat": legend,
            "range": True,
        }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "color": {
                "mode": "scheme",
                "scheme": "Spectral",
                "steps": 64,
                "exponent": 0.5,
                "fill": "dark-orange",
                "reverse": False,
            },
            "cellGap": 1,
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "showValue": "never",
            "yAxis": {"unit": panel.unit, "axisPlacement": "left"},
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": False},
        }
    return {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    lines = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 20 if panel.stacked else 5,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
    }
    bounds = {"min": 0, "max": 1} if panel.unit == "percentunit" else {"min": 0}
    fields = {"unit": panel.unit, **bounds, "custom": lines}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {} if panel.kind == "heatmap" else fields, "overrides": []},
        "options": _options(panel),
        "targets": list(_targets(panel)),
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 1, 0
    for title, panels in ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        number, y = number + 1, y + 1
        for index, panel in enumerate(panels):
            place = {"h": HEIGHT, "w": WIDTH, "x": index % 3 * WIDTH, "y": y + index // 3 * HEIGHT}
            yield _drawn(panel, number, place)
            number += 1
        y += -(-len(panels) // 3) * HEIGHT


def _variable(name: str, label: str, values: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"qryType": 1, "query": values, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
    }


def dashboard() -> dict[str, Any]:
    """The file's document."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    instances = 'label_values(vllm:num_requests_running{model_name=~"$model"}, instance)'
    return {
        "uid": "lmi-chat",
        "title": "lmi-chat",
        "description": "Requests, latency, engine and refusals of lmi-chat's servers, from GET /metrics.",
        "tags": ["lmi-chat", "vllm"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                source,
                _variable("model", "Model", "label_values(vllm:num_requests_running, model_name)"),
                _variable("instance", "Instance", instances),
            ]
        },
        "panels": list(_panels()),
    }


def printed() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(printed(), encoding="utf-8")
