"""WebSockets: each message a request as on the route, its answer in messages, by the `websockets` client."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from websockets import frames
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from lmi_chat.http.access import ApiKeys
from lmi_chat.http.cross_origin import CrossOrigin
from lmi_chat.job import Job
from lmi_chat.limits import RateLimits
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.pipeline.rates import Rates
from lmi_chat.storage.sessions import Sessions
from tests.http.test_app import CHAT, post, send
from tests.support.scripted import Scripted, Service, Step, said, serving

pytestmark = pytest.mark.processes

PATH = "/invocations-bidirectional-stream"
WORDS = "one two three "


def answered(job: Job) -> list[Step]:
    """Some words; slowly, where the prompt asks for that."""
    return [*said(*WORDS.split(" "), gap_s=0.02 if "slowly" in job.prompt_text else 0.0)(job)]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    policy = PipelineConfig(sessions=Sessions(seconds=60, most=4))
    with serving(Scripted(answered), policy=policy, max_body_bytes=2**16) as running:
        yield running


@contextlib.contextmanager
def opened(service: Service, path: str = PATH, **more: Any) -> Iterator[ClientConnection]:
    more.setdefault("ping_interval", None)
    with connect(f"ws://127.0.0.1:{service.port}{path}", **more) as opened:
        yield opened


def ask(socket: ClientConnection, body: object) -> Any:
    """A whole answer."""
    socket.send(json.dumps(body))
    return json.loads(socket.recv(timeout=10))


def lines(service: Service, body: dict[str, Any], path: str = "/invocations") -> list[bytes]:
    """The chunks of a streamed answer over HTTP."""
    return chunks(post(service, body, path=path)[2])


def chunks(data: bytes) -> list[bytes]:
    """Its lines or events, of which none may be incomplete."""
    end = b"\n\n" if data.startswith((b"data: ", b"event: ")) else b"\n"
    *whole, rest = data.split(end)
    assert not rest
    return [part + end for part in whole]


def same(data: bytes | str) -> str:
    """A chunk without what is each answer's own."""
    text = data.decode() if isinstance(data, bytes) else data
    head, _, body = text.rpartition("data: ")
    if body.strip() == "[DONE]":
        return text
    document = json.loads(body)
    return head + json.dumps({key: value for key, value in document.items() if key not in {"id", "created"}})


def test_each_message_is_a_request_and_its_answer_a_message(service: Service) -> None:
    with opened(service) as socket:
        for body in (CHAT, {"inputs": "hi"}, {"prompt": "hi"}, CHAT):
            over_http = post(service, body)[2]
            assert same(json.dumps(ask(socket, body))) == same(json.dumps(over_http))


@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_stream_is_a_message_for_each_chunk(service: Service, path: str) -> None:
    """By the path that the platform puts in, and by the query; no message has a part of a chunk."""
    body = {"stream": True} | ({"input": "hi"} if path == "/v1/responses" else CHAT | {"max_tokens": 64})
    expected = lines(service, body, path)
    for own in (path, f"{PATH}?route={path}", f"{PATH}?a=b&route={path.replace('/', '%2F')}"):
        with opened(service, own) as socket:
            for _ in range(2):
                socket.send(json.dumps(body))
                got: list[bytes] = []
                while len(got) < len(expected):
                    got += chunks(str(socket.recv(timeout=10)).encode())
                if path in ("/invocations", "/v1/chat/completions"):
                    assert [same(one) for one in got] == [same(one) for one in expected]
                else:
                    assert [one.split(b"\n")[0] for one in got] == [one.split(b"\n")[0] for one in expected]


def test_text_is_answered_by_text_and_bytes_by_bytes(service: Service) -> None:
    with opened(service) as socket:
        for sent, kind in ((json.dumps(CHAT), str), (json.dumps(CHAT).encode(), bytes)):
            socket.send(sent)
            assert isinstance(socket.recv(timeout=10), kind)
        body = json.dumps(CHAT | {"stream": True}).encode()
        socket.send([body[:10], body[10:20], body[20:]])  # in frames that belong together
        assert isinstance(socket.recv(timeout=10), bytes)


def test_errors_are_messages_and_the_socket_goes_on(service: Service) -> None:
    with opened(service) as socket:
        for body in (b"{", json.dumps({"messages": 1}).encode(), b"", json.dumps(CHAT | {"n": -1}).encode()):
            socket.send(body)
            status, _, over_http = send(service, body)
            assert status == 400
            assert json.loads(socket.recv(timeout=10)) == over_http
        assert ask(socket, CHAT)["choices"]
    with opened(service, "/v1/messages") as socket:
        assert ask(socket, {"messages": 1})["type"] == "error", "in the words of the route"


def test_requests_sent_ahead_are_answered_in_their_order(service: Service) -> None:
    with opened(service) as socket:
        for number in range(40):
            socket.send(json.dumps(CHAT | {"n": number % 3 + 1}) + " " * 8000)
        counts = [len(json.loads(socket.recv(timeout=20))["choices"]) for _ in range(40)]
    assert counts == [number % 3 + 1 for number in range(40)]


def test_pings_are_answered_while_an_answer_comes(service: Service) -> None:
    with opened(service) as socket:
        socket.send(json.dumps({"inputs": "slowly", "stream": True}))
        for _ in range(3):
            assert socket.ping().wait(5)
        assert socket.recv(timeout=10)


def test_a_client_that_goes_cancels_its_request() -> None:
    for leaves in ("close", "drop"):
        with serving(Scripted(said("word " * 2000, gap_s=0.01))) as service:
            with opened(service) as socket:
                socket.send(json.dumps(CHAT | {"stream": True}))
                assert socket.recv(timeout=10)
                assert service.pipeline.active == 1
                if leaves == "drop":
                    socket.socket.close()
            wait_until(lambda: is_free(service))


def test_neighbours_are_undisturbed(service: Service) -> None:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(opened(service)) for _ in range(8)]
        for one in sockets:
            one.send(json.dumps({"inputs": "slowly", "stream": True}))
        sockets[0].socket.close()
        sockets[1].close()
        for one in sockets[2:]:
            texts: list[bytes | str] = []
            while len(texts) < len(lines(service, {"inputs": "slowly", "stream": True})):
                texts.append(one.recv(timeout=10))
        assert post(service, CHAT)[0] == 200


def closed_by(socket: ClientConnection) -> int:
    try:
        while True:
            socket.recv(timeout=10)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd is not None else 0


def connections(service: Service) -> list[Any]:
    return [*service.server.server_state.connections]


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 45
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_free(service: Service) -> bool:
    return not service.pipeline.active and not service.bodies.bytes_in_flight


def test_a_large_message_is_told_and_closes(service: Service) -> None:
    most = 2**16
    with opened(service) as socket:
        socket.send(json.dumps(CHAT).ljust(most))
        assert json.loads(socket.recv(timeout=10))["choices"]
        socket.send(json.dumps(CHAT).ljust(most + 1))
        assert json.loads(socket.recv(timeout=10))["error"]["code"] == "body_too_large"
        assert closed_by(socket) == 1009
    with opened(service) as socket:
        socket.send(["x" * 40_000, "x" * 40_000])
        assert json.loads(socket.recv(timeout=10))["error"]["code"] == "body_too_large"
        assert closed_by(socket) == 1009
    wait_until(lambda: is_free(service))


def test_a_message_that_comes_slowly_closes() -> None:
    """The scripted server gives 2 s for 16 KiB."""
    with serving() as service, opened(service) as socket:
        socket.socket.sendall(b"\x81\xfe\x40\x00abcd" + b"x" * 99)  # of a frame of 16 KiB
        assert closed_by(socket) == 1008
        wait_until(lambda: is_free(service))


@pytest.mark.parametrize("wrong", [b"\x81\x02hi", b"\x83\x80abcd", b"\xc1\x80abcd", b"\x80\x80abcd"])
def test_what_is_no_websocket_closes_as_that(service: Service, wrong: bytes) -> None:
    """Unmasked, an unknown kind, a bit of an extension, a rest of nothing."""
    with opened(service) as socket:
        socket.socket.sendall(wrong)
        assert closed_by(socket) == 1002


def test_thousands_of_tiny_frames_hold_nobody_up(service: Service) -> None:
    with opened(service) as socket, opened(service) as other:
        ping = frames.Frame(frames.Opcode.PING, b"").serialize(mask=True)
        part = frames.Frame(frames.Opcode.CONT, b" ", fin=False).serialize(mask=True)
        first = frames.Frame(frames.Opcode.TEXT, b" ", fin=False).serialize(mask=True)
        last = frames.Frame(frames.Opcode.CONT, json.dumps(CHAT).encode()).serialize(mask=True)
        socket.socket.sendall(ping * 20_000 + first + part * 20_000 + last)
        assert ask(other, CHAT)["choices"]
        assert json.loads(socket.recv(timeout=20))["choices"]


def test_a_reader_that_does_not_read_is_cut_off() -> None:
    with serving(Scripted(said("x" * 60_000))) as service, opened(service) as socket:
        socket.send(json.dumps(CHAT | {"stream": True}))
        wait_until(lambda: service.pipeline.active == 1)
        wait_until(lambda: is_free(service) and not connections(service))
        assert closed_by(socket) == 0, "without a close frame: what is missing must not look complete"


# The handshake.


def refused(service: Service, path: str = PATH, **more: Any) -> tuple[int, Any]:
    with pytest.raises(InvalidStatus) as refused, opened(service, path, **more):
        pass
    response = refused.value.response
    return response.status_code, json.loads(response.body or b"null")


def test_an_unknown_route_is_404_and_lists_them(service: Service) -> None:
    status, body = refused(service, f"{PATH}?route=/nowhere")
    assert status == 404
    assert "/v1/chat/completions" in body["error"]["message"]


@pytest.mark.parametrize("path", ["/ping", "/v1/models", "/nowhere", "/metrics"])
def test_elsewhere_an_upgrade_is_ignored(service: Service, path: str) -> None:
    expected = send(service, b"", {}, path, "GET")[0]
    with pytest.raises(InvalidStatus) as refused, opened(service, path):
        pass
    assert refused.value.response.status_code == expected


@pytest.mark.parametrize("given", [{"sec-websocket-key": "x"}, {"sec-websocket-version": "12"}, {"x": "x" * 9000}])
def test_a_handshake_that_is_none_is_400(service: Service, given: dict[str, str]) -> None:
    usual = {"sec-websocket-key": "a" * 22 + "==", "sec-websocket-version": "13"}
    headers = {"connection": "upgrade", "upgrade": "websocket", **usual, **given}
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", PATH, headers=headers)
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (400, True)


def test_a_key_is_asked_for_and_its_rates_count() -> None:
    lines: list[dict[str, Any]] = []
    log = RequestLog(lambda line: lines.append(json.loads(line)))
    policy = PipelineConfig(rates=Rates(RateLimits(requests=2)), request_log=log)
    with serving(policy=policy, api_keys=ApiKeys({"ada": "secret"})) as service:
        assert refused(service)[0] == 401
        assert refused(service, additional_headers={"authorization": "Bearer other"})[0] == 401
        with opened(service, additional_headers={"x-api-key": "secret"}) as socket:
            answers = [ask(socket, CHAT) for _ in range(3)]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, None, "rate_limit_exceeded"]
    assert [(line["status"], line["key"]) for line in lines] == [
        *([(401, None)] * 2),
        (101, "ada"),
        *([(200, "ada")] * 2),
        (429, "ada"),
    ]


def test_pages_of_other_origins_are_refused(service: Service) -> None:
    assert refused(service, origin="https://evil.example")[0] == 403
    with serving(cross_origin=CrossOrigin(origins=["https://good.example"])) as allowing:
        assert refused(allowing, origin="https://evil.example")[0] == 403
        with opened(allowing, origin="https://good.example") as socket:
            assert ask(socket, CHAT)["choices"]


def test_while_the_model_loads_it_is_503() -> None:
    with serving(is_open=False) as service:
        assert refused(service)[0] == 503


def test_what_comes_with_the_handshake_is_answered(service: Service) -> None:
    with contextlib.closing(socket.create_connection(("127.0.0.1", service.port), 10)) as raw:
        head = f"GET {PATH} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        head += f"sec-websocket-version: 13\r\nsec-websocket-key: {'a' * 22}==\r\n\r\n"
        frame = frames.Frame(frames.Opcode.TEXT, json.dumps(CHAT).encode()).serialize(mask=True)
        raw.sendall(head.encode() + frame)
        got = b""
        while b"chat.completion" not in got:
            got += raw.recv(65536)
        assert got.startswith(b"HTTP/1.1 101")


def test_a_session_lasts_for_a_socket(service: Service) -> None:
    session = post(service, {"requestType": "NEW_SESSION"})[1]["x-amzn-sagemaker-new-session-id"].partition(";")[0]
    with opened(service, additional_headers={"X-Amzn-SageMaker-Session-Id": session}) as socket:
        first, second = ask(socket, CHAT), ask(socket, CHAT)
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]


def test_the_server_ends_after_the_present_answer() -> None:
    with serving(Scripted(said("word " * 20, gap_s=0.02))) as service, opened(service) as busy, opened(service) as idle:
        busy.send(json.dumps(CHAT))
        while not service.pipeline.active:
            time.sleep(0.005)

        async def shut() -> None:
            for connection in connections(service):
                connection.shutdown()

        service.do(shut())
        assert closed_by(idle) == 1001
        assert json.loads(busy.recv(timeout=10))["choices"]
        assert closed_by(busy) == 1001


def test_they_count_among_connections(service: Service) -> None:
    wait_until(lambda: not connections(service))
    with opened(service) as socket:
        assert ask(socket, CHAT)
        [connection] = connections(service)
        assert list(connection.connections_open._open) == [connection]
        assert connection.is_waiting_for_client
        service.loop.call_soon_threadsafe(lambda: connection.make_room(at_once=False))
        assert closed_by(socket) == 1013
    wait_until(lambda: is_free(service))


def test_a_socket_on_which_nothing_comes_closes_unless_it_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as service, opened(service) as pinging, opened(service) as silent:
        for connection in connections(service):
            monkeypatch.setattr(connection._socket, "_edge", replace(connection.edge, keep_alive_s=1.0, receive_s=0.2))
            service.loop.call_soon_threadsafe(connection._socket._arm)
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(closed_by(silent)))
        thread.start()
        while thread.is_alive():
            assert pinging.ping().wait(5)
            thread.join(0.1)
        assert codes == [1001]
        assert ask(pinging, CHAT)["choices"]
