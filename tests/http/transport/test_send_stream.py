"""Servers that are not ours around the real app (httpx's transport, uvicorn's own classes), and one made by hand."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from lmi_chat.errors import HookFailed
from lmi_chat.http import app, custom_handler
from lmi_chat.http.state import AppState
from lmi_chat.http.transport import send_stream
from lmi_chat.http.transport.send_stream import SendStream
from lmi_chat.limits import ConnectionLimits
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from tests.support.fakes import deployment
from tests.support.scripted import Scripted, said, serving

pytestmark = pytest.mark.processes

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}
ID = {"x-request-id": "same"}
START = {"type": "http.response.start", "status": 200, "headers": []}
LAST = {"type": "http.response.body", "body": b"", "more_body": False}
CASES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("/invocations", CHAT, {}),
    ("/invocations", STREAM, {}),
    ("/v1/chat/completions", STREAM, {}),
    ("/v1/completions", {"prompt": ["a", "b"], "stream": True}, {}),
    ("/invocations", {"inputs": "hi", "stream": True}, {"accept": "text/event-stream"}),
    ("/endpoints/e/invocations", CHAT, {}),
    ("/endpoints/e/invocations-response-stream", STREAM, {}),
    ("/invocations", CHAT | {"temperature": 9}, {}),
    ("/invocations", CHAT | {"model": "other"}, {}),
    ("/ping", {}, {}),
]


@pytest.fixture(autouse=True)
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`created` is in each part of an event stream, under its checksum: two answers are compared as of one second."""
    monkeypatch.setattr("lmi_chat.dialects.openai.time.time", lambda: 1.0)


async def opened(engine: Scripted, max_body_bytes: int = 2**20) -> Starlette:
    line = Pipeline(PipelineConfig())
    await line.open(engine, deployment())
    return app.build(AppState(pipeline=line, health=StartupProgress(), max_body_bytes=max_body_bytes))


@contextmanager
def plain(application: Any, http: Any, engine: Scripted | None = None) -> Iterator[str]:
    """A server with one of uvicorn's own protocol classes; gives its address."""
    server = uvicorn.Server(
        uvicorn.Config(application, port=0, http=http, ws="none", lifespan="off", log_config=None, access_log=False)
    )

    async def serve() -> None:
        if engine is not None:
            server.config.app = await opened(engine)
        await server._serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(5)


def same(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """What two servers have to agree on: not the time of day."""
    own = {"date", "server", "transfer-encoding", "connection"}
    heads = {name: value for name, value in answer.headers.items() if name not in own}
    body = answer.content
    for key in (b'"created":', b'"id":"', b'"seconds":'):
        body = b"".join(part.lstrip(b"0123456789.") for part in body.split(key))
    return answer.status_code, heads, body


async def ask(client: httpx.AsyncClient, case: tuple[str, dict[str, Any], dict[str, str]]) -> httpx.Response:
    path, body, headers = case
    if not body:
        return await client.get(path)
    return await client.post(path, json=body, headers=ID | headers)


@pytest.fixture(scope="module")
def ours() -> Iterator[str]:
    with serving() as running:
        yield f"http://127.0.0.1:{running.port}"


@pytest.fixture(scope="module", params=["httptools", "h11"])
def theirs(request: pytest.FixtureRequest) -> Iterator[str]:
    with plain(None, request.param, Scripted()) as url:
        yield url


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {'stream' in case[1]}")
async def test_httpx_s_transport_gets_what_our_server_sends(ours: str, case: Any) -> None:
    transport = httpx.ASGITransport(await opened(Scripted()))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://t") as inside,
        httpx.AsyncClient(base_url=ours) as outside,
    ):
        assert same(await ask(inside, case)) == same(await ask(outside, case))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {'stream' in case[1]}")
async def test_uvicorn_s_own_classes_send_what_our_server_sends(ours: str, theirs: str, case: Any) -> None:
    async with httpx.AsyncClient(base_url=theirs) as one, httpx.AsyncClient(base_url=ours) as other:
        assert same(await ask(one, case)) == same(await ask(other, case))
        assert (await one.get("/ping")).json()["active"] == 0  # the connection is kept


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_client_that_leaves_ends_its_request(http: str, body: dict[str, Any]) -> None:
    engine = Scripted(said("Hello" * 1000, gap_s=0.01))
    with plain(None, http, engine) as url:
        data = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            until(lambda: len(engine.jobs) == 2)
            if body is STREAM:
                assert client.recv(1)
        until(lambda: engine.left_early == 1 and engine.running == 0)


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_stream_arrives_as_it_is_written(http: str) -> None:
    engine = Scripted(said("ab", gap_s=0.8))
    with plain(None, http, engine) as url, httpx.stream("POST", url + "/invocations", json=STREAM) as answer:
        times = [(time.monotonic(), part) for part in answer.iter_raw()]
    assert times[-1][0] - times[0][0] > 0.2
    assert json.loads(b"".join(part for _, part in times).splitlines()[-1])["choices"][0]["finish_reason"] == "stop"


def test_nothing_of_it_runs_under_our_own_class(monkeypatch: pytest.MonkeyPatch, ours: str) -> None:
    monkeypatch.delattr(send_stream.SendStream, "serve")
    for body in (CHAT, STREAM):
        assert httpx.post(ours + "/invocations", json=body).status_code == 200


class Echo:
    """A model directory's handler: three parts, or what the query's `fault` says."""

    async def answer(self, properties: Mapping[str, str], content: Mapping[str, bytes], out: Any) -> None:
        if b"refuse" in content.get("fault", b""):
            raise HookFailed("no")
        await out.head(201, {"X-Own": properties["x-given"]}, is_stream="stream" in content)
        for _ in range(3):
            await out.send(content["data"])
        if "fault" in content:
            raise HookFailed("broken")


@pytest.mark.parametrize("query", ["", "?stream=1", "?fault=refuse", "?stream=1&fault=late"])
async def test_a_custom_handler_answers_under_any_server(query: str) -> None:
    site = custom_handler.Site(health=StartupProgress(), max_body_bytes=10, handler=Echo(), refusal=None)
    transport = httpx.ASGITransport(custom_handler.build(site))
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        answer = await client.post("/invocations" + query, content=b"x", headers={"x-given": "1"})
        large = await client.post("/invocations", content=b"x" * 11)
    broken = b'{"code":424,"message":"broken","error":"broken","type":"server_error"}\n'
    assert large.status_code == 413
    match query:
        case "?fault=refuse":
            assert (answer.status_code, answer.json()["error"]) == (424, "no")
        case _:
            assert (answer.status_code, answer.headers["x-own"]) == (201, "1")
            assert answer.content == b"xxx" + (broken if "fault" in query else b"")
    assert site.active == 0


class Server:
    """`receive` and `send` of a server by hand: `taking` is cleared while its client reads nothing."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.taking, self.left = asyncio.Event(), asyncio.Event()
        self.taking.set()
        self.received: list[dict[str, Any]] = [
            {"type": "http.request", "body": b"a", "more_body": True},
            {"type": "http.request"},
        ]
        self.fault: Exception | None = None

    async def receive(self) -> dict[str, Any]:
        if self.received:
            return self.received.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.taking.wait()
        if self.fault:
            raise self.fault
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


Work = Callable[[SendStream, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


async def run(server: Server, work: Work, **edge: Any) -> SendStream:
    """Have `work` answer one request: its body is read, its client's leaving cancels it."""
    stream = SendStream(server.receive, server.send, ConnectionLimits(**edge))
    scope: dict[str, Any] = {"type": "http", "extensions": {"tls": {}}}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["extensions"] == {"tls": {}, "lmi_chat.outlet": stream}
        task = asyncio.current_task()
        assert task is not None
        stream.on_gone = task.cancel
        while (await receive()).get("more_body"):
            pass
        await work(stream, receive, send)

    async with asyncio.timeout(5):
        await stream.serve(application, scope)
    assert scope["extensions"] == {"tls": {}}
    assert len(asyncio.all_tasks()) == 1, "no task outlives its request"
    return stream


async def test_the_end_waits_for_all_that_was_written() -> None:
    server = Server()

    async def work(stream: SendStream, _: Any, send: Any) -> None:
        await send(START)
        server.taking.clear()
        for number in range(10):
            stream.write(b"%d" % number)
            await asyncio.sleep(0)
        stream.write(b"")
        assert stream.backlog_bytes == 9  # the first is with the server
        asyncio.get_running_loop().call_later(0.02, server.taking.set)
        await send(LAST)

    stream = await run(server, work)
    assert server.body == b"0123456789"
    assert [message.get("body") for message in server.sent] == [None, b"0", b"123456789", b""]
    assert server.sent[-1] == LAST
    assert (stream.is_gone, stream.backlog_bytes) == (False, 0)


async def test_write_outside_of_a_streamed_response_is_a_mistake() -> None:
    async def work(stream: SendStream, _: Any, send: Any) -> None:
        with pytest.raises(RuntimeError, match="between the start and the end"):
            stream.write(b"x")
        await send(START)
        await send(LAST)
        with pytest.raises(RuntimeError, match="between the start and the end"):
            stream.write(b"x")

    await run(Server(), work)


async def forever(stream: SendStream, _: Any, send: Any) -> None:
    await send(START)
    while True:
        stream.write(b"x" * 100)
        await asyncio.sleep(0.001)


async def test_a_client_that_leaves_is_noticed_by_receive() -> None:
    server = Server()
    asyncio.get_running_loop().call_later(0.05, server.left.set)
    stream = await run(server, forever)
    assert stream.is_gone
    assert LAST not in server.sent
    stream.write(b"dropped")
    told: list[bool] = []
    stream.on_gone = lambda: told.append(True)
    assert told


async def test_a_client_that_leaves_in_its_body_is_noticed() -> None:
    server = Server()
    server.received[1:] = [{"type": "http.disconnect"}]

    async def work(_stream: SendStream, _receive: Any, _send: Any) -> None:
        await asyncio.sleep(3600)

    assert (await run(server, work)).is_gone


async def test_who_listens_for_the_end_is_told() -> None:
    server = Server()

    async def work(stream: SendStream, receive: Any, send: Any) -> None:
        stream.on_gone = None
        asyncio.get_running_loop().call_later(0.02, server.left.set)
        assert (await receive())["type"] == "http.disconnect"
        await send(START)

    await run(server, work)
    assert server.sent == []


@pytest.mark.parametrize("fault", [OSError("gone"), ConnectionResetError()])
async def test_a_client_that_leaves_is_noticed_by_send(fault: Exception) -> None:
    server = Server()
    asyncio.get_running_loop().call_later(0.02, lambda: setattr(server, "fault", fault))
    assert (await run(server, forever)).is_gone


async def test_what_goes_wrong_in_the_server_is_raised() -> None:
    server = Server()
    asyncio.get_running_loop().call_later(0.02, lambda: setattr(server, "fault", RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        await run(server, forever)


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    server = Server()
    asyncio.get_running_loop().call_later(0.02, server.taking.clear)
    assert (await run(server, forever, write_stall_s=0.05)).is_gone


async def test_the_buffer_has_a_limit_that_only_a_slow_reader_meets() -> None:
    server = Server()

    async def work(stream: SendStream, _: Any, send: Any) -> None:
        await send(START)
        stream.write(b"x" * 5000)  # in one go, while the server takes all
        stream.write(b"x" * 5000)
        await asyncio.sleep(0)
        server.taking.clear()
        stream.write(b"y")
        await asyncio.sleep(0)
        stream.write(b"z" * 1000)
        assert not stream.is_gone
        stream.write(b"z")
        await asyncio.sleep(3600)

    stream = await run(server, work, backlog_bytes=1000)
    assert stream.is_gone
    assert server.body == b"x" * 10000


async def test_leaving_after_the_answer_is_no_loss() -> None:
    server = Server()

    async def work(_stream: SendStream, _receive: Any, send: Any) -> None:
        await send(START)
        await send(LAST)
        server.left.set()
        await asyncio.sleep(0.01)

    assert not (await run(server, work)).is_gone


async def test_a_cancelling_that_is_the_servers_own_goes_on() -> None:
    server = Server()
    task = asyncio.create_task(run(server, forever))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
