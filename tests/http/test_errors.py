"""The application's two ways to a route say every error alike."""

import errno
import json
import threading
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lmi_chat.errors import Busy, NotFound
from lmi_chat.http import errors
from tests.support.scripted import Scripted, said, serving


class Endpoint:
    """Answers as its query says: an error, a failure, a failure within the answer, or what it was asked."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        match request.url.query:
            case "refused":
                raise Busy("no seat is free")
            case "broken":
                raise KeyError("of ours")
            case "memory":
                raise MemoryError
            case "process":
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if request.url.query == "late":
            raise KeyError("of ours")
        await send({"type": "http.response.body", "body": await request.body()})


def _application() -> Any:
    def shape_of(_: Request, error: Any) -> errors.Refusal:
        return error.status, {"x-shape": "ours"}, {"error": error.message}

    routes = [
        Route("/direct", Endpoint(), methods=["POST"]),
        Route("/by/{name}", Endpoint(), methods=["POST"]),
        Route("/direct", Endpoint(), methods=["GET"]),
    ]
    return errors.application(routes, shape_of, lambda request, _: NotFound(f"no {request.url.path}"))


async def _ask(method: str, url: str, *, root: str = "", body: bytes = b"") -> httpx.Response:
    transport = httpx.ASGITransport(_application(), raise_app_exceptions=False, root_path=root)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.request(method, url, content=body)


@pytest.mark.parametrize("path", ["/direct", "/by/name"])
@pytest.mark.parametrize(("query", "status"), [("refused", 503), ("broken", 500), ("", 200)])
async def test_either_way_says_the_same(path: str, query: str, status: int) -> None:
    answer = await _ask("POST", f"{path}?{query}", body=b"asked")
    assert answer.status_code == status
    if status == 200:
        assert answer.content == b"asked"
        return
    assert answer.headers["x-shape"] == "ours"
    assert answer.json() == {"error": "no seat is free" if query == "refused" else "internal error"}
    assert ("retry-after" in answer.headers) == (query == "refused")


@pytest.mark.parametrize("query", ["memory", "process"])
async def test_what_the_machine_refuses_it_may_have_later(query: str) -> None:
    answer = await _ask("POST", f"/direct?{query}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "no memory, thread or process left" in answer.json()["error"]


def test_a_thread_that_is_refused_is_the_requests_own_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long body is read in a thread; the stream beside it goes on, and the next request is served."""
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    long = json.dumps(chat) + " " * 6000
    with (
        serving(Scripted(said("abcdefgh", gap_s=0.05))) as service,
        httpx.Client(base_url=f"http://127.0.0.1:{service.port}") as client,
    ):
        with client.stream("POST", "/invocations", json={**chat, "stream": True}) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", _refused)
                with httpx.Client(base_url=f"http://127.0.0.1:{service.port}") as other:
                    answer = other.post("/invocations", content=long, headers={"content-type": "application/json"})
            assert answer.status_code == 503, answer.text
            assert "no memory, thread or process left" in answer.json()["error"]["message"]
            assert len([first, *lines]) >= 8
        assert (
            client.post("/invocations", content=long, headers={"content-type": "application/json"}).status_code == 200
        )


def _refused(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("path", ["/direct", "/by/name"])
async def test_a_failure_reaches_the_servers_log_as_well(path: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(_application()), base_url="http://server") as client:
        for query in ("broken", "late"):
            with pytest.raises(KeyError, match="of ours"):
                await client.post(f"{path}?{query}")


async def test_other_methods_and_prefixes_find_their_routes() -> None:
    assert (await _ask("GET", "/direct")).status_code == 200
    assert (await _ask("PUT", "/direct")).json() == {"error": "no /direct"}
    assert (await _ask("POST", "/nowhere")).status_code == 404
    assert (await _ask("POST", "/below/direct", root="/below")).status_code == 200
