"""Print docs/grafana/cloudwatch.json, CloudWatch's dashboard of the metrics in log lines: `python -m` this module.

Format: Amazon CloudWatch, "Dashboard Body Structure and Syntax". Metrics stand there as in `embedded`.
"""

import json
from pathlib import Path
from typing import Any

from lmi_chat.observability.cloudwatch import NAMESPACE

FILE = Path(__file__).parents[2] / "docs" / "grafana" / "cloudwatch.json"
MODEL = "__MODEL__"
"""What the dashboard's variable puts a model's name in place of."""
REGION = "us-east-1"
PERIOD_S = 60
WIDTH, HEIGHT = 8, 6
Row = list[Any]


def _of_model(name: str, stat: str, label: str) -> Row:
    return [NAMESPACE, name, "Model", MODEL, {"stat": stat, "label": label}]


def _by(dimension: str, name: str, stat: str) -> Row:
    """A line for each value of a dimension; CloudWatch adds up what its search finds."""
    found = f'{{{NAMESPACE},Model,Dialect,Status}} MetricName="{name}" Model="{MODEL}"'
    label = f"${{PROP('Dim.{dimension}')}}"
    return [{"expression": f"SEARCH('{found}', '{stat}', {PERIOD_S})", "id": "found", "label": label}]


def _hidden(name: str, key: str) -> Row:
    return [NAMESPACE, name, "Model", MODEL, {"stat": "Sum", "id": key, "visible": False}]


def _share(part: str, whole: str, label: str) -> list[Row]:
    rate = {"expression": "100 * part / whole", "label": label, "id": "share"}
    return [[rate], _hidden(part, "part"), _hidden(whole, "whole")]


def _seconds(name: str) -> list[Row]:
    return [_of_model(name, stat, stat) for stat in ("p50", "p95", "p99")]


WIDGETS: list[tuple[str, str, list[Row]]] = [
    ("Requests a minute", "count", [_of_model("requests", "Sum", "requests"), _of_model("errors", "Sum", "errors")]),
    ("Requests by dialect and status", "count", [_by("Dialect", "requests", "Sum")]),
    ("Share of requests that ended in an error", "%", _share("errors", "requests", "errors")),
    ("Time to the first token", "s", _seconds("ttft_seconds")),
    ("Waiting", "s", _seconds("queue_seconds")),
    ("Whole time", "s", _seconds("total_seconds")),
    (
        "Where the time goes, mean",
        "s",
        [
            _of_model("queue_seconds", "Average", "waiting"),
            _of_model("prefill_seconds", "Average", "prefill"),
            _of_model("decode_seconds", "Average", "decode"),
        ],
    ),
    (
        "Tokens a minute",
        "count",
        [
            _of_model("prompt_tokens", "Sum", "prompt"),
            _of_model("completion_tokens", "Sum", "generated"),
            _of_model("reasoning_tokens", "Sum", "of these reasoning"),
        ],
    ),
    (
        "Share of prompt tokens found in the prefix cache",
        "%",
        _share("cached_tokens", "prompt_tokens", "cached"),
    ),
]


def _widget(place: int, title: str, unit: str, metrics: list[Row]) -> dict[str, Any]:
    return {
        "type": "metric",
        "x": place % 3 * WIDTH,
        "y": place // 3 * HEIGHT,
        "width": WIDTH,
        "height": HEIGHT,
        "properties": {
            "title": title,
            "view": "timeSeries",
            "stacked": False,
            "region": REGION,
            "period": PERIOD_S,
            "metrics": metrics,
            "yAxis": {"left": {"min": 0, "label": unit, "showUnits": False}},
        },
    }


def dashboard() -> dict[str, Any]:
    """The file's document."""
    model = {
        "type": "pattern",
        "pattern": MODEL,
        "inputType": "select",
        "id": "model",
        "label": "Model",
        "visible": True,
        "search": f'{{{NAMESPACE},Model}} MetricName="requests"',
        "populateFrom": "Model",
        "defaultValue": "__FIRST",
    }
    region = {
        "type": "property",
        "property": "region",
        "inputType": "input",
        "id": "region",
        "label": "Region",
        "visible": True,
        "defaultValue": REGION,
    }
    widgets = [_widget(place, *widget) for place, widget in enumerate(WIDGETS)]
    return {"start": "-PT3H", "periodOverride": "inherit", "variables": [model, region], "widgets": widgets}


def printed() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(printed(), encoding="utf-8")
