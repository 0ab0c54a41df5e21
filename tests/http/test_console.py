"""The console's page and its figures as a browser asks for them; scripted engine, real HTTP."""

import re
from pathlib import Path

import pytest

from lmi_chat import __version__
from lmi_chat.console.files import FOLDER
from lmi_chat.http.access import ApiKeys
from lmi_chat.observability import startup
from tests.http.test_adapters import BOUNDS, registering
from tests.http.test_answers import check
from tests.http.test_app import CHAT, post, send
from tests.support.adapters import write
from tests.support.console import CONFIG, get, requests, shown
from tests.support.scripted import Scripted, said, serving

pytestmark = pytest.mark.processes

PATHS = ("/console", "/console/api/now", "/console/api/series", "/console/api/requests", "/console/api/config")
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/", *PATHS, "/console/index.html", "/console/api/requests/a"])
def test_where_it_is_off_there_is_nothing(path: str) -> None:
    with serving() as service:
        assert send(service, b"", BROWSER, path=path, method="GET")[0] == 404


def test_the_page_comes_with_a_strict_policy() -> None:
    with shown() as service:
        status, headers, page = send(service, b"", {}, path="/console", method="GET")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert page == (FOLDER / "index.html").read_bytes()
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cache-control"] == "no-cache"
        again = {"if-none-match": headers["etag"]}
        assert send(service, b"", again, path="/console", method="GET")[0] == 304
        assert send(service, b"", {"if-none-match": '"other"'}, path="/console", method="GET")[0] == 200


def test_each_file_of_the_page_is_served_and_no_other() -> None:
    with shown() as service:
        for path in FOLDER.iterdir():
            status, headers, data = send(service, b"", {}, path=f"/console/{path.name}", method="GET")
            assert (status, data) == (200, path.read_bytes()), path.name
            assert "content-security-policy" in headers
        for name in ("..%2Frecorder.py", "recorder.py", "../recorder.py", "%2e%2e/recorder.py", ""):
            assert send(service, b"", {}, path=f"/console/{name}", method="GET")[0] == 404, name


def test_the_page_asks_no_other_host() -> None:
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""(?:src|href|import|from|fetch)\s*[=(]?\s*["'](?:https?:)?//""", text), path.name


def test_a_browser_is_sent_to_the_page_and_nobody_else() -> None:
    with shown() as service:
        status, headers, _ = send(service, b"", BROWSER, path="/", method="GET")
        assert (status, headers["location"]) == (307, "/console")
        assert send(service, b"", {"accept": "*/*"}, path="/", method="GET")[0] == 404
    with shown(is_tgi=True) as service:
        assert send(service, b"", {"accept": "*/*"}, path="/", method="GET")[0] == 405
        assert send(service, b'{"inputs":"hi"}', path="/")[0] == 200
        assert send(service, b"", BROWSER, path="/", method="GET")[0] == 307


def test_figures_need_a_key_and_the_page_none() -> None:
    with shown(api_keys=ApiKeys({"alice": "secret"})) as service:
        assert send(service, b"", {}, path="/console", method="GET")[0] == 200
        key = {"authorization": "Bearer secret"}
        for path in PATHS[1:]:
            assert send(service, b"", {}, path=path, method="GET")[0] == 401
            status, headers, _ = send(service, b"", key, path=path, method="GET")
            assert (status, headers["cache-control"]) == (200, "no-store")
        post(service, CHAT)
        [refused] = get(service, "requests", key)["requests"]
        assert (refused["status"], refused["error"], refused["spans"]) == (401, "invalid_api_key", [])
        assert refused["message"].startswith("POST /invocations: this server asks for an API key")


def test_what_is_served_now() -> None:
    with shown(engine_version="0.32.0", tool_parser="hermes") as service:
        now = get(service, "now")
        assert {name: now[name] for name in ("model", "version", "vllm", "state", "message", "task", "adapters")} == {
            "model": "tiny",
            "version": __version__,
            "vllm": "0.32.0",
            "state": "ready",
            "message": None,
            "task": "generate",
            "adapters": [],
        }
        assert now["takes"] == {"images": False, "audio": False, "tools": True, "reasoning": False}
        assert (now["context_tokens"], now["max_running"]) == (1024, service.engine.model.max_running)
        service.do(service.pipeline.drain(1))
        now = get(service, "now")
        assert (now["state"], now["model"]) == ("draining", "tiny")


def test_the_adapters_and_who_asked_for_one(tmp_path: Path) -> None:
    source = write(tmp_path / "french")
    engine = Scripted(said("oui"), adapters=BOUNDS)
    with shown(engine, adapters=registering(tmp_path / "own")) as service:
        assert post(service, {"name": "french", "src": str(source)}, path="/adapters")[0] == 200
        assert get(service, "now")["adapters"] == ["french"]
        assert post(service, CHAT | {"model": "french"})[0] == 200
        assert post(service, CHAT)[0] == 200
        assert [row["adapter"] for row in requests(service, "adapter=french")] == ["french"]
        assert [row["adapter"] for row in requests(service)] == [None, "french"]


def test_the_phases_of_the_start() -> None:
    with shown(is_open=False) as service:
        service.health.enter(startup.IMPORTING)
        now = get(service, "now")
        assert (now["state"], now["model"], now["max_running"]) == ("loading", None, None)
        assert "still loading" in now["message"]
        phases = [(phase["name"], phase["status"]) for phase in now["phases"]]
        assert phases == [
            (startup.READING, "done"),
            (startup.IMPORTING, "running"),
            (startup.STARTING, "waiting"),
            (startup.FIRST_TOKEN, "waiting"),
        ]
        assert [phase["seconds"] is None for phase in now["phases"]] == [False, False, True, True]


def test_the_settings_as_they_were_handed_over() -> None:
    with shown() as service:
        assert get(service, "config") == {"rows": [CONFIG]}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("series?seconds=0", "seconds must be a whole number from 1 to 900"),
        ("series?seconds=901", "seconds must be a whole number from 1 to 900"),
        ("requests?limit=x", "limit must be a whole number from 1 to 4000"),
        ("requests?user=" + "a" * 129, "user must have at most 128 characters, got 129"),
    ],
)
def test_a_query_out_of_bounds(query: str, says: str) -> None:
    with shown() as service:
        status, _, answer = send(service, b"", {}, path=f"/console/api/{query}", method="GET")
        assert status == 400
        assert says in answer["error"]["message"]


def test_answers_are_as_the_document_says() -> None:
    with shown(Scripted(said("ab")), tool_parser="hermes") as service:
        check(service, "/v1/chat/completions", CHAT | {"user": "bob"}, x_request_id="a")
        check(service, "/invocations", {"inputs": "hi", "parameters": {"temperature": "x"}})
        for name in ("now", "series", "requests", "config"):
            check(service, f"/console/api/{name}")
        check(service, "/console/api/requests/a", shown="/console/api/requests/{id}")
        check(service, "/console/api/requests/b", shown="/console/api/requests/{id}")
        check(service, "/console/api/requests?limit=0", shown="/console/api/requests")
        check(service, "/console/api/series?seconds=0", shown="/console/api/series")
    with shown(is_open=False) as service:
        assert send(service, b"", {}, path="/openapi.json", method="GET")[0] == 503
    with serving() as service:
        paths = send(service, b"", {}, path="/openapi.json", method="GET")[2]["paths"]
        assert not [path for path in paths if "console" in path]


def test_one_request_by_its_id() -> None:
    with shown(most=3) as service:
        for name in ("first/of them", "second"):
            post(service, CHAT, headers={"content-type": "application/json", "x-amzn-sagemaker-inference-id": name})
        assert [row["id"] for row in requests(service)] == ["second", "first/of them"]
        assert get(service, "requests/first%2Fof%20them") == requests(service)[1]
        status, _, answer = send(service, b"", {}, path="/console/api/requests/third", method="GET")
        assert status == 404
        assert "option.console_requests" in answer["error"]["message"]
