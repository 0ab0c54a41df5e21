"""The transport's limits: raw sockets against a real server, and some orders of events on a transport of our own."""

import asyncio
import contextlib
import gc
import json
import logging
import socket
import struct
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from lmi_chat.http.transport.body_stream import BodyStream
from lmi_chat.http.transport.connections import Connections
from lmi_chat.http.transport.protocol import CHUNK_BYTES, FREE_CHUNKS, PIPELINE_MAX, protocol_class
from lmi_chat.limits import ConnectionLimits

pytestmark = pytest.mark.processes

HOST = b"Host: x\r\n"
CHUNKED = [(b"content-type", b"text/plain")]
PATIENCE_S = 10  # no test asks how fast this machine is; the servers' own times are shorter or much longer


@dataclass
class App:
    """What the server serves; remembers what reached it, and whose clients were found gone."""

    calls: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    outlets: list[BodyStream] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        body_stream = scope["extensions"]["lmi_chat.outlet"]
        self.calls.append(scope["path"])
        self.headers.append(scope["headers"])
        self.outlets.append(body_stream)

        def on_gone() -> None:
            self.gone.append(scope["path"])
            task.cancel()

        body_stream.on_gone = on_gone
        self.started.release()
        try:
            await getattr(self, scope["path"].strip("/"))(body_stream, receive, send)
        finally:
            self.ended.release()

    async def read(self, receive: Any) -> bytes | None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body, more = body + message["body"], message["more_body"]
        return body

    async def answer(self, send: Any, body: bytes, status: int = 200, *, has_length: bool = True) -> None:
        length = [(b"content-length", b"%d" % len(body))] if has_length else []
        await send({"type": "http.response.start", "status": status, "headers": length})
        await send({"type": "http.response.body", "body": body})

    async def echo(self, _body_stream: BodyStream, receive: Any, send: Any) -> None:
        body = await self.read(receive)
        if body is not None:
            self.bodies.append(body)
            await self.answer(send, b"got " + body)

    async def late(self, body_stream: BodyStream, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.8)  # more than two windows, and a part of the third
        await self.echo(body_stream, receive, send)

    async def nap(self, body_stream: BodyStream, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.1)
        await self.echo(body_stream, receive, send)

    async def read_and_work(self, _body_stream: BodyStream, receive: Any, send: Any) -> None:
        await self.read(receive)
        await asyncio.sleep(0.45)
        await self.answer(send, b"worked")

    async def early(self, _body_stream: BodyStream, _receive: Any, send: Any) -> None:
        await asyncio.sleep(0.03)  # what has been sent piles up
        await self.answer(send, b"too large " * 100, 413)

    async def wait(self, _body_stream: BodyStream, receive: Any, _send: Any) -> None:
        await self.read(receive)
        await asyncio.sleep(30)

    async def listen(self, body_stream: BodyStream, receive: Any, _send: Any) -> None:
        body_stream.on_gone = None
        await self.read(receive)
        self.bodies.append((await receive())["type"].encode())

    async def stream(self, body_stream: BodyStream, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": CHUNKED})
        for number in range(5):
            body_stream.write(b"piece %d\n" % number)
            body_stream.write(b"")
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def endless(self, body_stream: BodyStream, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": CHUNKED})
        while True:
            body_stream.write(b"x" * 8000)
            await asyncio.sleep(0.01)

    async def burst(self, body_stream: BodyStream, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": CHUNKED})
        for number in range(150):
            body_stream.write(b"%1000d" % number)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def burst_later(self, _body_stream: BodyStream, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": CHUNKED})
        await self.may_end.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def silent(self, body_stream: BodyStream, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": CHUNKED})
        body_stream.write(b"first")
        await asyncio.sleep(30)

    async def whole_100k(self, _body_stream: BodyStream, _receive: Any, send: Any) -> None:
        await self.answer(send, b"x" * 100_000)

    async def whole_40k(self, _body_stream: BodyStream, _receive: Any, send: Any) -> None:
        await self.answer(send, b"x" * 40_000)


@dataclass
class Site:
    app: App
    server: uvicorn.Server
    port: int

    def connect(self, *, rcvbuf: int | None = None) -> socket.socket:
        client = socket.socket()
        if rcvbuf is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        client.settimeout(5)
        client.connect(("127.0.0.1", self.port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def ask(self, raw: bytes) -> list[tuple[int, dict[str, str], bytes]]:
        with self.connect() as client:
            client.sendall(raw)
            return read_answers(read_to_end(client))

    def wait_idle(self) -> None:
        """Wait until the server holds no connection any more."""
        end = time.monotonic() + PATIENCE_S
        while self.server.server_state.connections:
            assert time.monotonic() < end, "the connection is still there"
            time.sleep(0.01)


@contextlib.contextmanager
def serve(
    edge: ConnectionLimits,
    *,
    sndbuf: int | None = None,
    keep_alive_s: int = 5,
    connections: Connections | None = None,
) -> Iterator[Site]:
    app = App()
    listener = socket.create_server(("127.0.0.1", 0))
    if sndbuf is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
    config = uvicorn.Config(
        app,
        http=protocol_class(edge, connections),
        loop="uvloop",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
    )
    config.timeout_keep_alive = keep_alive_s
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield Site(app, server, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(5)
        assert not thread.is_alive(), "the server does not end"


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Neither a bad request nor a client that goes away is worth a line."""
    yield
    assert [record.message for record in caplog.get_records("call") if record.levelno >= logging.WARNING] == []


@pytest.fixture(scope="module")
def roomy_server() -> Iterator[Site]:
    """Times that no test waits for: what ends here does not end by a timer."""
    with serve(ConnectionLimits(header_bytes=4096, header_count=20, linger_s=30), keep_alive_s=30) as site:
        yield site


@pytest.fixture(scope="module")
def hasty_server() -> Iterator[Site]:
    """Short times, and small socket buffers, so that a client that does not read is soon felt."""
    edge = ConnectionLimits(receive_s=0.3, receive_bytes=1000, write_stall_s=0.4, linger_s=0.3, backlog_bytes=1 << 24)
    with serve(edge, sndbuf=4096, keep_alive_s=1) as site:
        yield site


def renew(site: Site) -> Site:
    site.wait_idle()
    vars(site.app).update(vars(App()))
    return site


@pytest.fixture
def roomy(roomy_server: Site) -> Site:
    return renew(roomy_server)


@pytest.fixture
def hasty(hasty_server: Site) -> Site:
    return renew(hasty_server)


def read_to_end(client: socket.socket) -> bytes:
    data = b""
    while more := client.recv(65536):
        data += more
    return data


def read_until(client: socket.socket, mark: bytes) -> bytes:
    data = b""
    while not data.endswith(mark):
        more = client.recv(65536)
        assert more, data
        data += more
    return data


def read_answers(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Split a connection's bytes into answers, strictly; what has neither length nor chunks lasts to the end."""
    answers: list[tuple[int, dict[str, str], bytes]] = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        assert first.startswith("HTTP/1.1 ")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if headers.get("transfer-encoding") == "chunked":
            chunks, data = read_chunks(data)
            body = b"".join(chunks)
        else:
            length = int(headers.get("content-length", len(data)))
            body, data = data[:length], data[length:]
            assert len(body) == length
        answers.append((int(first.split()[1]), headers, body))
    return answers


def read_chunks(data: bytes) -> tuple[list[bytes], bytes]:
    chunks: list[bytes] = []
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        chunk, end, data = data[:length], data[length : length + 2], data[length + 2 :]
        assert end == b"\r\n"
        assert len(chunk) == length
        if not length:
            return chunks, data
        chunks.append(chunk)


def dribble(client: socket.socket, data: bytes) -> bytes:
    """Send a byte each 50 ms, until there is an answer."""
    client.settimeout(0.05)
    for byte in data:
        client.sendall(bytes([byte]))
        with contextlib.suppress(TimeoutError):
            return client.recv(65536)
    raise AssertionError("no answer")


def only(data: bytes) -> tuple[int, dict[str, str], bytes]:
    (answer,) = read_answers(data)
    return answer


def check_refusal(answer: tuple[int, dict[str, str], bytes], status: int, code: str) -> None:
    got, headers, body = answer
    error = json.loads(body)["error"]
    assert (got, error["code"]) == (status, code)
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert "content-length" in headers
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] is None
    assert error["message"]


def post(path: bytes, body: bytes, more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (path, HOST, more, len(body), body)


def get(path: bytes, more: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path, HOST, more)


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# What is not HTTP

POST = b"POST /echo HTTP/1.1\r\n" + HOST
MALFORMED = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two equal lengths": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "length too small": POST + b"Content-Length: 4\r\n\r\n{{{}}",
    "negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "length with a sign": POST + b"Content-Length: +5\r\n\r\nhello",
    "unending length": POST + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    "space before colon": POST + b"Content-Length : 5\r\n\r\nhello",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a coding beside chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "unending chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk without end": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
    "folded header": POST + b"X-A: 1\r\n 2\r\nContent-Length: 5\r\n\r\nhello",
    "bare LF": b"POST /echo HTTP/1.1\nHost: x\nContent-Length: 5\n\nhello",
    "bare LF at the end": POST + b"Content-Length: 5\r\n\nhello",
    "NUL in a value": POST + b"X-A: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in a name": POST + b"X\0A: ab\r\nContent-Length: 5\r\n\r\nhello",
    "no colon": POST + b"Nonsense\r\nContent-Length: 5\r\n\r\nhello",
    "two hosts": POST + b"Host: y\r\nContent-Length: 5\r\n\r\nhello",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(range(64)),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": b"GET /echo HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /echo\r\n\r\n",
    "no method": b" /echo HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT x:1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "path not ASCII": b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_is_refused(roomy: Site, raw: bytes) -> None:
    (answer,) = roomy.ask(raw)
    check_refusal(answer, 400, "bad_http")
    assert roomy.app.calls == []


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_is_refused_byte_by_byte(raw: bytes) -> None:
    wire = Wire()
    for byte in raw:
        wire.protocol.data_received(bytes([byte]))
        await asyncio.sleep(0)
    check_refusal(read_answers(wire.written())[-1], 400, "bad_http")
    assert wire.is_closed
    wire.disconnect()


def test_host_is_needed(roomy: Site) -> None:
    (answer,) = roomy.ask(b"GET /echo HTTP/1.1\r\n\r\n")
    check_refusal(answer, 400, "missing_host")
    assert roomy.app.calls == []
    assert roomy.ask(b"GET /echo HTTP/1.0\r\n\r\n")[0][0] == 200


def test_garbage_after_a_request_under_way_waits_for_its_answer(roomy: Site) -> None:
    with roomy.connect() as client:
        client.sendall(get(b"/read_and_work"))
        assert roomy.app.started.acquire(timeout=PATIENCE_S)
        client.sendall(b"\0garbage" * 1000)
        first, second = read_answers(read_to_end(client))
    assert first[2] == b"worked"
    check_refusal(second, 400, "bad_http")


def test_broken_body_of_a_request_under_way(roomy: Site) -> None:
    with roomy.connect() as client:
        client.sendall(POST.replace(b"echo", b"wait") + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert roomy.app.started.acquire(timeout=PATIENCE_S)
        client.sendall(b"zz\r\n")
        check_refusal(only(read_to_end(client)), 400, "bad_http")
    assert roomy.app.ended.acquire(timeout=PATIENCE_S)
    assert len(roomy.app.gone) == 1


def test_upgrade_is_ignored_and_the_body_kept(roomy: Site) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    raw = post(b"/echo", b"one", upgrade)
    assert [answer[2] for answer in roomy.ask(raw + post(b"/echo", b"two", b"Connection: close\r\n"))] == [
        b"got one",
        b"got two",
    ]
    with roomy.connect() as client:
        client.sendall(raw[:-2])
        time.sleep(0.05)
        client.sendall(raw[-2:])
        read_until(client, b"got one")
    assert roomy.app.bodies == [b"one", b"two", b"one"]
    assert roomy.ask(get(b"/echo", b"Connection: close, upgrade\r\nUpgrade: websocket\r\n"))[0][2] == b"got "


def test_trailers_are_no_headers(roomy: Site) -> None:
    raw = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\nX-Trailer: 1\r\n\r\n"
    assert roomy.ask(raw)[0][2] == b"got hi"
    assert b"x-trailer" not in dict(roomy.app.headers[0])


# Size of the head

LARGE = {
    "one long header": b"GET /echo HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 5000 + b"\r\n\r\n",
    "many headers": b"GET /echo HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 20 + b"\r\n",
    "many long headers": b"GET /echo HTTP/1.1\r\n" + HOST + (b"X: " + b"a" * 490 + b"\r\n") * 9 + b"\r\n",
    "long path": b"GET /echo?" + b"a" * 5000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "path without end": b"GET /echo?" + b"a" * 5000,
    "name without end": b"GET /echo HTTP/1.1\r\n" + b"a" * 5000,
    "value without end": b"GET /echo HTTP/1.1\r\nX: " + b"a" * 5000,
    "empty lines without end": b"\r\n" * 5000,
    "trailer without end": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 9000,
    "chunk extension without end": POST + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"a" * 9000,
}


@pytest.mark.parametrize("raw", LARGE.values(), ids=LARGE.keys())
def test_large_head_is_refused(roomy: Site, raw: bytes) -> None:
    (answer,) = roomy.ask(raw)
    check_refusal(answer, 431, "headers_too_large")
    assert roomy.app.calls == []


def test_largest_head_is_read(roomy: Site) -> None:
    lines = (b"X: " + b"a" * 220 + b"\r\n") * 17 + b"Connection: close\r\n"
    raw = post(b"/echo", b"b" * 100_000, lines)  # the body does not count
    assert roomy.ask(raw)[0][2] == b"got " + b"b" * 100_000
    assert len(roomy.app.headers[0]) == 20


def test_piled_up_requests_are_refused(roomy: Site) -> None:
    answers = roomy.ask(get(b"/wait") + get(b"/echo") * (PIPELINE_MAX + 1))
    check_refusal(answers[-1], 400, "bad_http")
    assert roomy.app.calls == []


# Time of the request


def test_idle_connection_is_closed(hasty: Site) -> None:
    with hasty.connect() as client:
        start = time.monotonic()
        assert read_to_end(client) == b""
        assert time.monotonic() - start > 0.25


@pytest.mark.parametrize("is_kept_alive", [False, True])
def test_slow_head_is_refused(hasty: Site, *, is_kept_alive: bool) -> None:
    with hasty.connect() as client:
        if is_kept_alive:
            client.sendall(post(b"/echo", b"one"))
            read_until(client, b"got one")
            time.sleep(0.4)  # idle is not slow
        start = time.monotonic()
        data = dribble(client, b"GET /echo HTTP/1.1\r\n")
        assert time.monotonic() - start > 0.25
    check_refusal(only(data), 408, "receive_timeout")
    assert hasty.app.calls == ["/echo"] * is_kept_alive


def test_empty_lines_keep_nothing_open(hasty: Site) -> None:
    with hasty.connect() as client:
        client.sendall(post(b"/echo", b"one"))
        read_until(client, b"got one")
        start = time.monotonic()
        with contextlib.suppress(OSError):
            while hasty.server.server_state.connections:
                client.sendall(b"\r\n")
                time.sleep(0.05)
        assert time.monotonic() - start > 0.9


def test_slow_body_is_refused(hasty: Site) -> None:
    with hasty.connect() as client:
        start = time.monotonic()
        client.sendall(post(b"/wait", b"x" * 2000)[:-1200])
        time.sleep(0.2)
        client.sendall(b"x" * 300)  # 1,100 in the first window, little in the second
        check_refusal(only(dribble(client, b"x" * 900)), 408, "receive_timeout")
        assert time.monotonic() - start > 0.5
    assert hasty.app.ended.acquire(timeout=PATIENCE_S)
    assert len(hasty.app.gone) == 1


def test_a_body_in_small_chunks_is_refused(roomy: Site) -> None:
    """Each costs as much work as a kilobyte; some thousand of them are a client's own way to write."""
    head = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    some = b"1\r\nx\r\n" * FREE_CHUNKS
    assert roomy.ask(head + some + b"0\r\n\r\n")[0][2] == b"got " + b"x" * FREE_CHUNKS
    fair = (b"%x\r\n" % CHUNK_BYTES + b"x" * CHUNK_BYTES + b"\r\n") * 20_000
    assert len(roomy.ask(head + fair + b"0\r\n\r\n")[0][2]) == 4 + 20_000 * CHUNK_BYTES
    check_refusal(roomy.ask(head + some * 3)[0], 400, "bad_http")


def test_framing_is_no_progress(hasty: Site) -> None:
    with hasty.connect() as client:
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 20_000)
        check_refusal(only(read_to_end(client)), 408, "receive_timeout")


def test_windows_of_head_and_body_are_apart(hasty: Site) -> None:
    head, body = post(b"/echo", b"x" * 500, b"Connection: close\r\n")[:-500], b"x" * 500
    with hasty.connect() as client:
        for part in (head[:-1], head[-1:], body):
            client.sendall(part)
            time.sleep(0.2)
        assert read_answers(read_to_end(client))[0][2] == b"got " + body


def test_next_request_may_come_while_one_is_answered(hasty: Site) -> None:
    with hasty.connect() as client:
        client.sendall(get(b"/read_and_work") + post(b"/echo", b"x" * 4000, b"Connection: close\r\n")[:-4000])
        for _ in range(8):
            client.sendall(b"x" * 500)
            time.sleep(0.11)
        assert read_answers(read_to_end(client))[1][2] == b"got " + b"x" * 4000


def test_body_may_be_slow_once_the_answer_has_begun(hasty: Site) -> None:
    with hasty.connect() as client:
        client.sendall(post(b"/silent", b"body")[:-1])
        read_until(client, b"first\r\n")
        time.sleep(0.7)
        assert hasty.app.gone == []


def test_steady_body_is_read(hasty: Site) -> None:
    with hasty.connect() as client:
        client.sendall(post(b"/echo", b"x" * 24_000, b"Connection: close\r\n")[:-24_000])
        for _ in range(24):
            client.sendall(b"x" * 1000)
            time.sleep(0.02)
        assert read_answers(read_to_end(client))[0][2] == b"got " + b"x" * 24_000


def test_work_on_a_complete_body_has_no_such_limit(hasty: Site) -> None:
    raw = post(b"/read_and_work", b"body")
    with hasty.connect() as client:
        client.sendall(raw[:-1])
        time.sleep(0.05)
        client.sendall(raw[-1:])
        read_until(client, b"worked")
        time.sleep(0.65)  # the second answer comes when an idle connection would have been closed
        client.sendall(raw)
        read_until(client, b"worked")


@pytest.mark.parametrize("body", [b"x" * 300_000, b"x"])
def test_waiting_for_the_handler_is_not_slow(hasty: Site, body: bytes) -> None:
    """With a long body the server does not read on; with Expect the client may not send."""
    expect = b"Expect: 100-continue\r\n" if len(body) == 1 else b""
    head = post(b"/late", body, expect + b"Connection: close\r\n")[: -len(body)]
    with hasty.connect() as client:
        client.sendall(head)
        if expect:
            assert read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            time.sleep(0.2)
        client.sendall(body)
        assert len(read_answers(read_to_end(client))[0][2]) == len(body) + 4


# The client goes, or does not read


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["FIN", "RST"])
@pytest.mark.parametrize("path", [b"/wait", b"/silent", b"/endless"])
def test_gone_client_is_told_at_once(roomy: Site, path: bytes, leave: Callable[[socket.socket], None]) -> None:
    client = roomy.connect()
    client.sendall(post(path, b"x" * 100_000))  # more than is taken from a client before the handler reads
    assert roomy.app.started.acquire(timeout=PATIENCE_S)
    if path == b"/silent":
        read_until(client, b"first\r\n")
    time.sleep(0.03)
    assert roomy.app.gone == []
    leave(client)
    assert roomy.app.ended.acquire(timeout=PATIENCE_S)
    roomy.wait_idle()
    assert len(roomy.app.gone) == 1
    assert roomy.app.outlets[0].is_gone


def test_half_closed_is_gone(hasty: Site) -> None:
    """TCP tells no difference between a client that has closed and one that only sends no more."""
    with hasty.connect(rcvbuf=2048) as client:
        client.sendall(get(b"/endless"))
        assert hasty.app.started.acquire(timeout=PATIENCE_S)
        time.sleep(0.2)  # much is unsent
        client.shutdown(socket.SHUT_WR)
        assert hasty.app.ended.acquire(timeout=PATIENCE_S)
        assert hasty.app.gone == ["/endless"]


def test_client_gone_in_the_body(roomy: Site) -> None:
    with roomy.connect() as client:
        client.sendall(post(b"/wait", b"body")[:-1])
        assert roomy.app.started.acquire(timeout=PATIENCE_S)
    assert roomy.app.ended.acquire(timeout=PATIENCE_S)
    assert len(roomy.app.gone) == 1


@pytest.mark.parametrize("path", [b"/echo", b"/stream"])
def test_leaving_after_the_answer_is_no_loss(roomy: Site, path: bytes) -> None:
    with roomy.connect() as client:
        client.sendall(get(path))
        read_until(client, b"got " if path == b"/echo" else b"\r\n0\r\n\r\n")
    roomy.wait_idle()
    assert roomy.app.gone == []
    assert not roomy.app.outlets[0].is_gone


def test_only_the_answered_request_of_a_pipeline_is_told(roomy: Site) -> None:
    with roomy.connect() as client:
        client.sendall(get(b"/echo"))
        read_until(client, b"got ")
        client.sendall(get(b"/silent") + get(b"/echo") + post(b"/echo", b"body")[:-1])
        read_until(client, b"first\r\n")
    roomy.wait_idle()
    assert roomy.app.calls == ["/echo", "/silent"]
    assert [body_stream.is_gone for body_stream in roomy.app.outlets] == [False, True]
    assert len(roomy.app.gone) == 1


def test_handler_may_listen_for_the_end_instead(roomy: Site) -> None:
    with roomy.connect() as client:
        client.sendall(get(b"/listen") + get(b"/echo"))
        assert roomy.app.started.acquire(timeout=PATIENCE_S)
    assert roomy.app.ended.acquire(timeout=PATIENCE_S)
    assert roomy.app.bodies == [b"http.disconnect"]


def test_client_that_does_not_read_is_cut_off(hasty: Site) -> None:
    start = time.monotonic()
    with hasty.connect(rcvbuf=2048) as client:
        client.sendall(get(b"/endless"))
        assert hasty.app.ended.acquire(timeout=PATIENCE_S)
        assert time.monotonic() - start > 0.4
        hasty.wait_idle()
        assert len(hasty.app.gone) == 1
        with pytest.raises(ConnectionResetError):
            read_to_end(client)


def test_slow_reader_is_served(hasty: Site) -> None:
    data = b""
    with hasty.connect(rcvbuf=16384) as client:
        client.sendall(get(b"/burst", b"Connection: close\r\n"))
        start = time.monotonic()
        while more := client.recv(4000):
            data += more
            time.sleep(0.03)
        assert time.monotonic() - start > 0.8
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert read_chunks(body) == ([b"%1000d" % number for number in range(150)], b"")


def test_unread_answers_keep_no_socket(hasty: Site) -> None:
    """Over and under the transport's buffer, to be kept alive and to be closed."""
    asks = [get(path, more) for path in (b"/whole_100k", b"/whole_40k") for more in (b"", b"Connection: close\r\n")]
    clients = [hasty.connect(rcvbuf=2048) for _ in asks]
    for client, ask in zip(clients, asks, strict=True):
        client.sendall(ask)
        assert hasty.app.started.acquire(timeout=PATIENCE_S)
    hasty.wait_idle()
    for client in clients:
        with client, pytest.raises(ConnectionResetError):
            read_to_end(client)
    assert hasty.app.gone == []


def test_backlog_has_a_limit() -> None:
    with serve(ConnectionLimits(backlog_bytes=65536), sndbuf=4096) as site, site.connect(rcvbuf=2048) as client:
        client.sendall(get(b"/endless"))
        assert site.app.ended.acquire(timeout=PATIENCE_S)
        assert len(site.app.gone) == 1
        assert site.app.outlets[0].is_gone
        assert site.app.outlets[0].backlog_bytes == 0
        with pytest.raises(ConnectionResetError):
            read_to_end(client)


# Answers


def test_kept_alive_and_pipelined_requests_are_answered_in_order(roomy: Site) -> None:
    with roomy.connect() as client:
        client.sendall(post(b"/echo", b"one"))
        read_until(client, b"got one")
        client.sendall(post(b"/nap", b"two") + get(b"/stream") + post(b"/echo", b"three", b"Connection: close\r\n"))
        answers = [answer[2] for answer in read_answers(read_to_end(client))]
    assert answers == [b"got two", b"".join(b"piece %d\n" % number for number in range(5)), b"got three"]
    assert len({id(body_stream) for body_stream in roomy.app.outlets}) == 4


def test_expect_continue(roomy: Site) -> None:
    with roomy.connect() as client:
        client.sendall(post(b"/echo", b"body", b"Expect: 100-continue\r\nConnection: close\r\n")[:-4])
        assert read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert read_answers(read_to_end(client))[0][2] == b"got body"


def test_each_write_is_one_chunk(roomy: Site) -> None:
    with roomy.connect() as client:
        client.sendall(get(b"/stream", b"Connection: close\r\n"))
        head, _, body = read_to_end(client).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert read_chunks(body) == ([b"piece %d\n" % number for number in range(5)], b"")


@pytest.mark.parametrize("path", [b"/stream", b"/echo"])
def test_http_1_0_gets_no_chunks(roomy: Site, path: bytes) -> None:
    ((status, headers, body),) = roomy.ask(b"GET " + path + b" HTTP/1.0\r\n\r\n")
    assert status == 200
    assert "transfer-encoding" not in headers
    assert headers["connection"] == "close"
    assert body == (b"got " if path == b"/echo" else b"".join(b"piece %d\n" % number for number in range(5)))


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_head_gets_no_body(roomy: Site, version: bytes) -> None:
    raw = b"HEAD /stream HTTP/" + version + b"\r\n" + HOST + b"Connection: close\r\n\r\n"
    with roomy.connect() as client:
        client.sendall(raw)
        assert read_to_end(client).endswith(b"\r\n\r\n")


def test_answer_before_the_body_arrives_whole(roomy: Site) -> None:
    """The client pushes 50 MB without looking; closing at once would reset it before it reads."""
    block = b"x" * (1 << 20)
    tracemalloc.start()
    try:
        with roomy.connect() as client:
            client.sendall(post(b"/early", b"").replace(b"Length: 0", b"Length: %d" % (50 << 20)))
            for _ in range(50):
                client.sendall(block)
            ((status, headers, body),) = read_answers(read_to_end(client))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (status, body, headers["connection"]) == (413, b"too large " * 100, "close")
    assert peak < 4 << 20
    assert roomy.app.gone == []


def test_nothing_is_served_after_an_answer_that_closes(roomy: Site) -> None:
    raw = post(b"/early", b"body")
    with roomy.connect() as client:
        client.sendall(raw[:-1])
        assert read_answers(read_to_end(client))[0][0] == 413
        client.sendall(raw[-1:] + get(b"/echo"))
        time.sleep(0.05)
    assert roomy.app.calls == ["/early"]


def test_lingering_ends(hasty: Site) -> None:
    """A client that neither stops sending nor closes is left after `linger_s`."""
    with hasty.connect() as client:
        client.sendall(post(b"/early", b"x" * 10_000)[:-9_000])
        start = time.monotonic()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while True:
                client.sendall(b"x")
                time.sleep(0.02)
        assert time.monotonic() - start > 0.25


def test_early_answer_to_a_small_body_does_not_wait(roomy: Site) -> None:
    with roomy.connect() as client:
        client.sendall(post(b"/early", b"body")[:-1])
        assert read_answers(read_to_end(client))[0][0] == 413
    roomy.wait_idle()  # the client has closed, so nothing is waited for


# Orders of events, on a transport of our own


class Pipe(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False
        self.is_aborted = False
        self.is_left = False  # closed both ways
        self.unsent_bytes = 0
        self.socket: socket.socket | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def write_eof(self) -> None:
        self.is_closed = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.is_closed = self.is_left = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = self.is_left = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class SetLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until it is set."""

    now_s = 1000.0

    def time(self) -> float:
        return self.now_s


def by_a_set_clock(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        with asyncio.Runner(loop_factory=SetLoop) as runner:
            runner.run(test())

    run.__doc__ = test.__doc__
    return run


class Wire:
    """One protocol and its transport, without sockets; counts the timers."""

    def __init__(self, edge: ConnectionLimits | None = None) -> None:
        self.app = App()
        self.pipe = Pipe()
        self.timers: list[asyncio.TimerHandle] = []
        self.loop = asyncio.get_running_loop()
        config = uvicorn.Config(self.app, ws="none", log_config=None, access_log=False, proxy_headers=False)
        self.protocol = protocol_class(edge or ConnectionLimits())(config, ServerState(), {}, self.loop)
        self._call_later = self.loop.call_later
        vars(self.loop)["call_later"] = self._count
        self.protocol.connection_made(self.pipe)

    def _count(self, delay: float, callback: Any, *args: Any, **context: Any) -> asyncio.TimerHandle:
        timer = self._call_later(delay, callback, *args, **context)
        if delay >= 2:  # not a handler's sleep
            self.timers.append(timer)
        return timer

    @property
    def is_closed(self) -> bool:
        return self.pipe.is_closed

    def written(self) -> bytes:
        return b"".join(self.pipe.writes)

    async def after(self, seconds: float) -> "Wire":
        """So much later, on a clock that is set."""
        assert isinstance(self.loop, SetLoop)
        self.loop.now_s += seconds
        for _ in range(5):
            await asyncio.sleep(0)
        return self

    def disconnect(self, exc: Exception | None = None) -> None:
        self.protocol.connection_lost(exc)
        vars(self.loop).pop("call_later", None)

    async def body_stream(self, raw: bytes) -> BodyStream:
        self.protocol.data_received(raw)
        for _ in range(5):
            await asyncio.sleep(0)
        return self.app.outlets[-1]


async def test_cutting_changes_nothing() -> None:
    coded = POST + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\none\r\n2\r\n, \r\n0\r\nX-Trailer: 1\r\n\r\n"
    upgrade = post(b"/echo?a=b", b"two", b"Connection: upgrade\r\nUpgrade: h2c\r\n")
    raw = coded + upgrade + b"\r\n" + get(b"/stream") + post(b"/echo", b"three") + b"nonsense"
    answers = set()
    for size in (1, 2, 3, 7, 50, 200, len(raw)):
        wire = Wire()
        for start in range(0, len(raw) - 8, size):
            wire.protocol.data_received(raw[: len(raw) - 8][start : start + size])
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        wire.protocol.data_received(raw[-8:])
        answers.add(wire.written())
        wire.disconnect()
    (whole,) = answers
    assert [answer[0] for answer in read_answers(whole)] == [200, 200, 200, 200, 400]


async def test_what_is_written_in_one_go_goes_out_in_one_write_for_each_connection() -> None:
    wires = [Wire(), Wire()]
    outlets = [await wire.body_stream(get(b"/burst_later")) for wire in wires]
    counts = [len(wire.pipe.writes) for wire in wires]
    for _ in range(3):
        for body_stream in outlets:
            body_stream.write(b"token")
    assert [len(wire.pipe.writes) for wire in wires] == counts
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for wire, count in zip(wires, counts, strict=True):
        assert wire.pipe.writes[count:] == [b"5\r\ntoken\r\n" * 3]
    assert [body_stream.backlog_bytes for body_stream in outlets] == [0, 0]


async def test_more_in_one_go_than_may_wait_is_written_and_only_a_full_transport_ends_it() -> None:
    wire = Wire(ConnectionLimits(backlog_bytes=4096))
    body_stream = await wire.body_stream(get(b"/burst_later"))
    for _ in range(5):
        body_stream.write(b"a" * 1000)
    assert not wire.pipe.is_aborted
    await asyncio.sleep(0.01)
    assert wire.written().count(b"3e8\r\n") == 5
    wire.protocol.pause_writing()
    for _ in range(5):
        body_stream.write(b"a" * 1000)
    assert wire.pipe.is_aborted


async def test_backlog_goes_out_in_one_write_before_the_end() -> None:
    wire = Wire()
    body_stream = await wire.body_stream(get(b"/burst_later"))
    wire.protocol.pause_writing()
    count = len(wire.pipe.writes)
    body_stream.write(b"a" * 10)
    body_stream.write(b"b")
    assert body_stream.backlog_bytes == 15 + 6
    wire.app.may_end.set()
    await asyncio.sleep(0.02)  # the end is being sent, and waits
    assert len(wire.pipe.writes) == count
    wire.protocol.resume_writing()
    assert wire.pipe.writes[count:] == [b"a\r\naaaaaaaaaa\r\n1\r\nb\r\n"]
    assert body_stream.backlog_bytes == 0
    wire.protocol.pause_writing()  # full again before the end has got its turn
    body_stream.write(b"c")
    await asyncio.sleep(0.01)
    wire.protocol.resume_writing()
    await asyncio.sleep(0.01)
    assert wire.written().endswith(b"1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")
    wire.disconnect()


@by_a_set_clock
async def test_progress_in_the_kernel_is_progress() -> None:
    """Megabytes may lie there, so that the transport's own buffer does not move for long."""
    wire = Wire()
    wire.pipe.unsent_bytes = 20_000
    wire.pipe.socket, peer = socket.socketpair()
    wire.pipe.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with wire.pipe.socket, peer:
        for _ in range(5):
            wire.pipe.socket.send(b"x" * 20_000)
        wire.protocol.pause_writing()
        for _ in range(5):
            read = 0
            while read < 20_000:
                read += len(peer.recv(20_000 - read))
            await wire.after(30.1)
            assert not wire.pipe.is_aborted
        await wire.after(30.1)
        assert wire.pipe.is_aborted
        wire.disconnect()


@pytest.mark.parametrize(
    ("unsent", "taken", "is_cut"),
    [
        (26_000_000, 45_000, True),  # 1.5 KB/s of a large answer: a tenth of it is due in each window
        (26_000_000, 2_600_000, False),
        (100_000, 10_000, True),
        (100_000, 16_384, False),
        (5_000, 4_999, True),  # it had time for all of it
        (5_000, 5_000, False),
    ],
)
def test_a_reader_takes_a_tenth_of_what_waits_in_each_window(unsent: int, taken: int, *, is_cut: bool) -> None:
    @by_a_set_clock
    async def read() -> None:
        wire = Wire()
        wire.pipe.unsent_bytes = unsent
        wire.protocol.pause_writing()
        for _ in range(3):
            await wire.after(15)
            wire.pipe.unsent_bytes = max(0, wire.pipe.unsent_bytes - taken)
            await wire.after(15.1)
        assert wire.pipe.is_aborted is is_cut
        wire.disconnect()

    read()


@by_a_set_clock
async def test_a_fresh_connection_may_be_idle_for_receive_s() -> None:
    wire = Wire(ConnectionLimits(receive_s=30))
    assert not (await wire.after(29.9)).pipe.is_left
    assert (await wire.after(0.2)).pipe.is_left
    assert wire.written() == b""


@by_a_set_clock
async def test_a_head_may_take_receive_s_from_its_first_byte() -> None:
    for is_kept_alive in (False, True):
        wire = Wire(ConnectionLimits(receive_s=30))
        if is_kept_alive:
            await wire.body_stream(post(b"/echo", b"one"))
            await wire.after(4)  # idle is not slow
        sent = wire.written()
        for byte in b"GET /echo?ab HTTP/1.1\r\nHost: ":
            assert wire.written() == sent
            wire.protocol.data_received(bytes([byte]))
            await wire.after(1)
        assert wire.written() == sent
        await wire.after(1.1)
        check_refusal(only(wire.written().removeprefix(sent)), 408, "receive_timeout")
        wire.disconnect()


@by_a_set_clock
async def test_a_body_brings_receive_bytes_in_each_window() -> None:
    wire = Wire(ConnectionLimits(receive_s=30, receive_bytes=1000))
    await wire.body_stream(post(b"/wait", b"x" * 9000)[:-9000])
    for size in (1000, 5000, 1100):
        wire.protocol.data_received(b"x" * size)
        await wire.after(30.1)
        assert wire.written() == b""
    wire.protocol.data_received(b"x" * 999)
    assert (await wire.after(29.8)).written() == b""
    await wire.after(0.3)
    check_refusal(only(wire.written()), 408, "receive_timeout")
    assert wire.app.gone == ["/wait"]


@by_a_set_clock
async def test_empty_lines_are_no_request() -> None:
    wire = Wire()
    await wire.body_stream(post(b"/echo", b"one"))
    for _ in range(9):
        wire.protocol.data_received(b"\r\n")
        assert not (await wire.after(0.5)).pipe.is_left
    wire.protocol.data_received(b"\r\n")
    assert (await wire.after(0.6)).pipe.is_left


@by_a_set_clock
async def test_half_closed_is_gone_at_once() -> None:
    wire = Wire()
    await wire.body_stream(get(b"/silent"))
    wire.protocol.pause_writing()
    wire.protocol.eof_received()
    assert wire.pipe.is_aborted
    wire.disconnect()
    assert wire.app.gone == ["/silent"]


@by_a_set_clock
async def test_who_takes_nothing_is_cut_off_after_write_stall_s() -> None:
    """While an answer comes, and when all of it was written."""
    for path, more in ((b"/silent", b""), (b"/whole_100k", b"Connection: close\r\n")):
        wire = Wire(ConnectionLimits(write_stall_s=20))
        wire.pipe.unsent_bytes = 70_000
        await wire.body_stream(get(path, more))
        wire.protocol.pause_writing()
        assert not (await wire.after(19.9)).pipe.is_aborted
        assert (await wire.after(0.2)).pipe.is_aborted
        wire.disconnect()


@by_a_set_clock
async def test_unread_input_is_thrown_away_for_linger_s() -> None:
    wire = Wire(ConnectionLimits(linger_s=2))
    await wire.body_stream(post(b"/early", b"x" * 10_000)[:-9_000])
    await wire.after(0.1)
    assert only(wire.written())[0] == 413
    assert wire.pipe.is_closed
    for _ in range(19):
        wire.protocol.data_received(b"x")
        assert not (await wire.after(0.1)).pipe.is_left
    assert (await wire.after(0.2)).pipe.is_left


async def test_refused_body_is_answered_though_the_client_sends_no_more() -> None:
    wire = Wire()
    await wire.body_stream(POST.replace(b"echo", b"wait") + b"Transfer-Encoding: chunked\r\n\r\n")
    wire.protocol.data_received(b"zz\r\n")
    check_refusal(only(wire.written()), 400, "bad_http")
    assert len(wire.app.gone) == 1
    wire.protocol.eof_received()
    assert not wire.pipe.is_aborted
    wire.disconnect()
    assert len(wire.app.gone) == 1


async def test_write_outside_of_a_streamed_response_is_a_mistake() -> None:
    wire = Wire()
    body_stream = await wire.body_stream(post(b"/wait", b""))
    with pytest.raises(RuntimeError, match="between"):
        body_stream.write(b"early")
    wire.disconnect()
    body_stream.write(b"dropped")
    await asyncio.sleep(0)


async def test_on_gone_set_too_late_is_called_once() -> None:
    wire = Wire()
    body_stream = await wire.body_stream(get(b"/wait"))
    body_stream.on_gone = None
    wire.disconnect()
    calls: list[int] = []
    body_stream.on_gone = lambda: calls.append(1)
    assert calls == [1]
    await asyncio.sleep(0)
    assert calls == [1]


async def test_timers_are_few_and_end_with_the_connection() -> None:
    wire = Wire()
    wire.protocol.data_received(post(b"/endless", b"x" * 1000)[:-1000])
    for _ in range(1000):
        wire.protocol.data_received(b"x")
        await asyncio.sleep(0)
    for _ in range(1000):
        wire.app.outlets[0].write(b"x")
    wire.protocol.pause_writing()
    assert len(wire.timers) == 3  # of the head, of the body, of the stalled write
    wire.disconnect(ConnectionResetError())
    assert all(timer.cancelled() for timer in wire.timers)
    await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "raw", [get(b"/echo"), get(b"/echo")[:-1], get(b"/early") + b"nonsense", post(b"/early", b"x")[:-1]]
)
@pytest.mark.parametrize("exc", [None, ConnectionResetError()], ids=["FIN", "RST"])
async def test_no_timer_outlives_its_connection(raw: bytes, exc: Exception | None) -> None:
    wire = Wire()
    wire.protocol.data_received(raw)
    await asyncio.sleep(0.05)
    assert not all(timer.cancelled() for timer in wire.timers)
    wire.disconnect(exc)
    assert all(timer.cancelled() for timer in wire.timers)


async def test_idle_timer_does_not_cut_the_next_request() -> None:
    wire = Wire()
    wire.protocol.data_received(post(b"/echo", b"") + get(b"/echo")[:-2])
    await asyncio.sleep(0.02)
    assert wire.app.bodies == [b""]
    assert [timer.cancelled() for timer in wire.timers] == [True, False, True]  # fresh, second head, idle
    wire.disconnect()


async def test_requests_are_freed_without_the_collector() -> None:
    wire = Wire()
    gc.collect()
    gc.disable()
    try:
        await wire.body_stream(get(b"/stream"))
        await asyncio.sleep(0.02)
        reference = weakref.ref(wire.protocol.cycle)
        wire.app.outlets.clear()
        await wire.body_stream(get(b"/stream"))
        await asyncio.sleep(0.02)
        assert reference() is None
    finally:
        gc.enable()
        wire.disconnect()


def test_lost_connections_are_forgotten(roomy: Site) -> None:
    with roomy.connect() as client:
        client.sendall(get(b"/stream"))
        read_until(client, b"\r\n0\r\n\r\n")
        (protocol,) = roomy.server.server_state.connections
        reference = weakref.ref(protocol)
        del protocol
    roomy.wait_idle()
    time.sleep(0.05)
    gc.collect()
    assert reference() is None
