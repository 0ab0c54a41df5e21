"""The dashboards in docs/grafana ask for what a server has: metrics and labels of its /metrics and of its log lines."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

from lmi_chat.observability.cloudwatch import NAMESPACE, embedded
from lmi_chat.observability.record import RequestRecord
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.storage.sessions import Sessions
from tests.http.test_adapters import BOUNDS, register, registering
from tests.http.test_app import CHAT, post, send
from tests.support import cloudwatch_dashboard, grafana, promql
from tests.support.adapters import write
from tests.support.metrics_page import PAGE
from tests.support.scripted import Scripted, called, reasoned, said, serving

FOLDER = Path(__file__).parents[2] / "docs" / "grafana"
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds to all that it scrapes."""
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 128,
}

FORMATS = ("text/plain", "application/openmetrics-text;version=1.0.0")
"""The second is what Prometheus asks for."""
Samples = dict[str, set[str]]
"""The labels of each sample's name."""


def samples_of(text: str) -> tuple[Samples, dict[str, str]]:
    """A scrape's samples, and the kind of each."""
    found: Samples = {}
    kinds = {}
    for family in (read_open if text.endswith("# EOF\n") else read_plain)(text):
        for one in family.samples:
            found.setdefault(one.name, set()).update(one.labels)
            is_counted = family.type in ("counter", "histogram", "summary")
            kinds[one.name] = "counter" if is_counted and not one.name.endswith("_created") else "gauge"
    return found, kinds


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> tuple[Samples, dict[str, str]]:
    """What a server shows after requests of each kind that some metric counts."""
    folder = tmp_path_factory.mktemp("adapters")
    write(folder / "french")
    engine = Scripted(said(reasoned("Hm."), "So:", called("weather", {})), adapters=BOUNDS)
    policy = PipelineConfig(sessions=Sessions(seconds=60, most=1))
    with serving(engine, policy=policy, adapters=registering(folder / "own")) as service:
        register(service, folder, "french")
        assert post(service, CHAT | {"unknown": 1})[0] == 200
        assert post(service, CHAT | {"adapters": "french"})[0] == 200
        assert send(service, b"{")[0] == 400
        opened = [post(service, {"requestType": "NEW_SESSION"})[0] for _ in range(2)]
        assert opened == [200, 503], "the bound of sessions is reached"
        text = send(service, b"", {}, "/metrics", "GET")[2].decode()
    return samples_of(text)


def expressions(document: dict[str, Any]) -> Iterator[tuple[str, promql.Expression, str]]:
    """Each query of the dashboard: its panel's title, what it asks for, its legend."""
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], promql.read(target["expr"]), target["legendFormat"]
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            label = re.fullmatch(r"label_values\(.*, (\w+)\)", query)
            assert label, query
            asked = promql.read(query.removesuffix(f", {label[1]})") + ")")
            yield variable["name"], asked, f"{{{{{label[1]}}}}}"


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / "lmi-chat.json").read_text())
    return document


def missing(samples: Samples, kinds: dict[str, str], prefix: str) -> list[str]:
    """What the dashboard asks for and a scrape has not, of metrics with `prefix`."""
    found = []
    for title, expression, legend in expressions(dashboard()):
        shown = set(re.findall(r"{{(\w+)}}", legend))
        if expression.labels is not None and shown - expression.labels:
            found.append(f"{title}: the legend has labels that the result lacks: {shown - expression.labels}")
        for series in expression.series:
            if not series.name.startswith(prefix):
                continue
            if series.name not in samples:
                found.append(f"{title}: no {series.name}")
            elif lacking := series.labels - samples[series.name] - OF_PROMETHEUS:
                found.append(f"{title}: {series.name} has no label {', '.join(lacking)}")
            elif (kinds[series.name] == "counter") != bool(series.within & promql.RATES):
                found.append(f"{title}: {series.name} is a {kinds[series.name]}")
            elif "histogram_quantile" in series.within and "le" not in series.labels:
                found.append(f"{title}: a quantile of {series.name} without its buckets")
    return found


@pytest.mark.parametrize("prefix", ["lmi_chat_", "http_", "process_"])
def test_grafanas_queries_ask_for_what_the_server_has(scrape: tuple[Samples, dict[str, str]], prefix: str) -> None:
    assert missing(*scrape, prefix) == []
    names = {series.name for _, expression, _ in expressions(dashboard()) for series in expression.series}
    assert any(name.startswith(prefix) for name in names)


def test_grafanas_queries_ask_for_nothing_else() -> None:
    """Of vLLM's metrics those that docs/observability.md lists, which the real engine's are compared with."""
    [shown] = re.findall(r"<!-- vllm -->\n(.*?)<!-- /vllm -->", PAGE.read_text(), re.DOTALL)
    listed = set(re.findall(r"`([^`]+)`", shown))
    for title, expression, _ in expressions(dashboard()):
        for series in expression.series:
            if series.name.startswith("vllm:"):
                assert series.name in listed or re.sub("_(bucket|sum|count)$", "", series.name) in listed, title
            else:
                assert series.name.startswith(("lmi_chat_", "http_", "process_")), title


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_grafanas_queries_ask_for_what_vllm_has(tmp_path: Path) -> None:
    """A scrape with the metrics that vLLM itself registers for an engine."""
    pytest.importorskip("vllm")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.metrics.loggers import PrometheusStatLogger
    from vllm.v1.metrics.prometheus import unregister_vllm_metrics

    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    arguments = AsyncEngineArgs(model=str(tmp_path), dtype="float32", skip_tokenizer_init=True)
    try:
        PrometheusStatLogger(arguments.create_engine_config(), [0])
        with serving() as service:
            texts = [send(service, b"", {"accept": kind}, "/metrics", "GET")[2].decode() for kind in FORMATS]
    finally:
        unregister_vllm_metrics()
    assert [text.endswith("# EOF\n") for text in texts] == [False, True]
    for text in texts:
        assert missing(*samples_of(text), "vllm:") == []


@pytest.mark.parametrize(
    "wrong",
    [
        "sum by (model) (rate(lmi_chat_requests_total[5m]))",
        'rate(lmi_chat_requests_total{state="200"}[5m])',
        "lmi_chat_requests_total",
        "rate(lmi_chat_running[5m])",
        "histogram_quantile(0.5, sum (rate(lmi_chat_ttft_seconds_bucket[5m])))",
        "rate(lmi_chat_requests[5m])",
    ],
)
def test_the_check_finds_what_is_wrong(
    scrape: tuple[Samples, dict[str, str]], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    panels = [{"title": "x", "targets": [{"expr": wrong, "legendFormat": ""}]}]
    monkeypatch.setitem(globals(), "dashboard", lambda: {"panels": panels, "templating": {"list": []}})
    assert len(missing(*scrape, "lmi_chat_")) == 1


@pytest.mark.parametrize("wrong", ["sum(", "sum by x (y)", "a b", "unheard_of(a)", 'a{b="c}', "a{b}", "", "a[5m"])
def test_what_is_no_promql_is_not_read(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        promql.read(wrong)


def test_grafanas_file_is_whole() -> None:
    """What an import needs: ids and places of their own, variables that are there, the data source asked for."""
    document = dashboard()
    assert (FOLDER / "lmi-chat.json").read_text() == grafana.printed(), "python -m tests.support.grafana"
    assert document["schemaVersion"] == grafana.SCHEMA_VERSION
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"].endswith(".")
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {variable["name"] for variable in document["templating"]["list"]}
    assert variables == {"datasource", "model", "instance"}
    text = (FOLDER / "lmi-chat.json").read_text()
    used = set(re.findall(r"\$\{?(\w+)", text))
    assert used == variables | {"__all", "__rate_interval"}
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Engine", "Cache", "Tools, adapters and media", "Refusals and health"]


def test_each_query_keeps_to_the_chosen_servers() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            for series in promql.read(target["expr"]).series:
                assert "instance" in series.labels, panel["title"]
                assert ("model_name" in series.labels) == series.name.startswith("vllm:"), panel["title"]


def written() -> dict[str, Any]:
    """A log line that has every metric."""
    record = RequestRecord(dialect="chat", model="tiny", queue_s=0.1, ttft_s=0.2, prefill_s=0.1, decode_s=1.5)
    return embedded(record.line(2.0))


def asked_of_cloudwatch(document: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Namespace, metric and names of dimensions of each line of each widget."""
    for widget in document["widgets"]:
        for row in widget["properties"]["metrics"]:
            options = row[-1]
            if isinstance(row[0], str):
                assert row[3::2] == [cloudwatch_dashboard.MODEL] * ((len(row) - 3) // 2)
                yield row[0], row[1], row[2:-1:2]
            elif found := re.fullmatch(
                r"""SEARCH\('\{([^,]+),([^}]+)\} MetricName="(\w+)" Model="__MODEL__"', '\w+', 60\)""",
                options["expression"],
            ):
                yield found[1], found[3], found[2].split(",")
            else:
                keys = {other[-1].get("id") for other in widget["properties"]["metrics"] if other is not row}
                assert set(re.findall(r"[a-z]\w*", options["expression"])) <= keys, "an expression of lines of its own"


def test_cloudwatchs_widgets_show_what_log_lines_have() -> None:
    document = json.loads((FOLDER / "cloudwatch.json").read_text())
    line = written()
    [directive] = line["_aws"]["CloudWatchMetrics"]
    names = {metric["Name"] for metric in directive["Metrics"]}
    shown = set()
    for namespace, name, dimensions in asked_of_cloudwatch(document):
        assert namespace == directive["Namespace"] == NAMESPACE
        assert name in names
        assert dimensions in directive["Dimensions"]
        assert name in line
        shown.add(name)
    assert shown == names, "each has its widget"


def test_cloudwatchs_file_is_a_dashboards_body() -> None:
    """By "Dashboard Body Structure and Syntax": the grid, what a metric widget must have, and no more than it may."""
    text = (FOLDER / "cloudwatch.json").read_text()
    assert text == cloudwatch_dashboard.printed(), "python -m tests.support.cloudwatch_dashboard"
    document = json.loads(text)
    assert document.keys() <= {"start", "end", "periodOverride", "variables", "widgets"}
    assert re.fullmatch(r"-P(T?\d+[A-Z])+", document["start"])
    assert document["periodOverride"] in ("auto", "inherit")
    for widget in document["widgets"]:
        assert widget["type"] == "metric"
        assert 0 <= widget["x"] <= 24 - widget["width"]
        assert 1 <= widget["height"] <= 1000
        properties = widget["properties"]
        assert properties.keys() >= {"metrics", "region", "title", "view", "period"}
        assert math.gcd(properties["period"], 60) == 60
        ids = [row[-1]["id"] for row in properties["metrics"] if "id" in row[-1]]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch(r"[a-z]\w*", one) for one in ids)
    pattern, region = document["variables"]
    assert pattern["pattern"] == cloudwatch_dashboard.MODEL
    assert text.count(f'"{cloudwatch_dashboard.MODEL}') > len(document["widgets"])
    [directive] = written()["_aws"]["CloudWatchMetrics"]
    assert pattern["search"] == f'{{{directive["Namespace"]},Model}} MetricName="requests"'
    assert [pattern["populateFrom"]] in directive["Dimensions"]
    assert region["property"] in properties


def test_cloudwatch_takes_the_file_and_gives_it_back() -> None:
    """Through boto3, as the page has it, to moto's CloudWatch."""
    with mock_aws():
        client = boto3.client("cloudwatch", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        text = (FOLDER / "cloudwatch.json").read_text()
        client.put_dashboard(DashboardName="lmi-chat", DashboardBody=text)
        kept = client.get_dashboard(DashboardName="lmi-chat")["DashboardBody"]
    assert json.loads(kept) == json.loads(text)
