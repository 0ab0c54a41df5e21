"""Pages of other origins that ask from a browser, where a deployment allows it; scripted engine, real HTTP."""

import http.client
import json
from collections.abc import Mapping
from contextlib import closing

import pytest

from lmi_chat.http.access import ApiKeys
from lmi_chat.http.cross_origin import CrossOrigin
from tests.http.test_app import CHAT
from tests.support.scripted import Service, serving

PAGE, OTHER = "https://app.example", "https://evil.example"
ASKED = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type, x-amzn-sagemaker-session-id",
}
Head = Mapping[str, str]


def ask(
    service: Service, path: str, origin: str, *, method: str = "POST", body: object = CHAT, **headers: str
) -> tuple[int, Head, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)) as connection:
        sent = {"origin": origin, "content-type": "application/json", **headers}
        connection.request(method, path, json.dumps(body), sent)
        with connection.getresponse() as answer:
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def test_nothing_is_said_of_origins_unless_they_are_allowed() -> None:
    with serving() as service:
        status, head, _ = ask(service, "/invocations", PAGE)
        assert status == 200
        assert not any(name.startswith("access-control") for name in head)
        assert ask(service, "/invocations", PAGE, method="OPTIONS", **ASKED)[0] == 405


@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions", "/v1/models", "/ping"])
def test_a_browser_is_told_before_it_asks(path: str) -> None:
    """With API keys too: a browser's question carries none."""
    with serving(cross_origin=CrossOrigin(origins=[PAGE]), api_keys=ApiKeys({"a": "key"})) as service:
        status, head, _ = ask(service, path, PAGE, method="OPTIONS", **ASKED)
        assert (status, head["access-control-allow-origin"]) == (200, PAGE)
        assert "POST" in head["access-control-allow-methods"]
        assert "x-amzn-sagemaker-session-id" in head["access-control-allow-headers"]
        status, head, _ = ask(service, path, OTHER, method="OPTIONS", **ASKED)
        assert status == 400
        assert head.get("access-control-allow-origin") != OTHER


@pytest.mark.parametrize("changes", [{}, {"stream": True}, {"messages": "wrong"}, {"model": "other"}])
def test_answers_streams_and_refusals_may_be_read_by_the_page(changes: dict[str, object]) -> None:
    with serving(cross_origin=CrossOrigin(origins=[PAGE])) as service:
        for path in ("/invocations", "/v1/chat/completions"):
            _, head, data = ask(service, path, PAGE, body={**CHAT, **changes})
            assert head["access-control-allow-origin"] == PAGE
            for name in ("X-LMI-Chat-Warning", "Traceparent"):
                assert name in head["access-control-expose-headers"]
            assert data
            assert "access-control-allow-origin" not in ask(service, path, OTHER, body={**CHAT, **changes})[1]
        assert ask(service, "/nowhere", PAGE)[1]["access-control-allow-origin"] == PAGE


def test_a_refused_key_may_be_read_too() -> None:
    with serving(cross_origin=CrossOrigin(origins=[PAGE]), api_keys=ApiKeys({"a": "key"})) as service:
        status, head, _ = ask(service, "/v1/chat/completions", PAGE)
        assert (status, head["access-control-allow-origin"]) == (401, PAGE)


def test_any_origin_and_credentials() -> None:
    with serving(cross_origin=CrossOrigin(origins=["*"])) as service:
        assert ask(service, "/invocations", OTHER)[1]["access-control-allow-origin"] == "*"
    with serving(cross_origin=CrossOrigin(origins=[PAGE], has_credentials=True)) as service:
        head = ask(service, "/invocations", PAGE)[1]
        assert (head["access-control-allow-origin"], head["access-control-allow-credentials"]) == (PAGE, "true")
