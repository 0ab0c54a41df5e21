"""Request bodies at once: whose is refused when there is no room, by sockets against a server."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import pytest

from lmi_chat.observability.metrics import BOUND_REACHED
from lmi_chat.pipeline.bodies import BodyBudget
from tests.support.scripted import Service, said, serving

KIB = 1024
HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHAT = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode().rjust(20 * KIB)


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(bodies=BodyBudget(100 * KIB)) as running:
        yield running


def begin(service: Service, length: int, sent: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", service.port), timeout=10)
    client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % length + b" " * sent)
    return client


def answer(client: socket.socket) -> tuple[int, str]:
    data = b""
    while more := client.recv(65536):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["message"]


def wait_for(service: Service, size: int) -> None:
    end = time.monotonic() + 10
    while service.bodies.bytes_in_flight != size:
        assert time.monotonic() < end, service.bodies.bytes_in_flight
        time.sleep(0.005)


def chat(service: Service) -> int:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(CHAT) + CHAT)
        data = b""
        while more := client.recv(65536):
            data += more
        return int(data.split()[1])


def test_the_body_that_comes_for_the_longest_makes_room(service: Service) -> None:
    before = BOUND_REACHED.labels("body_bytes_in_flight")._value.get()
    with contextlib.ExitStack() as stack:
        slow = []
        for number in range(3):
            slow.append(stack.enter_context(begin(service, 60 * KIB, 30 * KIB)))
            wait_for(service, (number + 1) * 30 * KIB)
        assert chat(service) == 200
        status, says = answer(slow[0])
        assert status == 503
        assert "body_bytes_in_flight" in says
        wait_for(service, 60 * KIB)  # the chat's own are given back when it is parsed
        slow[1].sendall(b"{}".rjust(30 * KIB))
        assert answer_of_kept(slow[1]) == 400  # read whole, and judged
    wait_for(service, 0)
    assert BOUND_REACHED.labels("body_bytes_in_flight")._value.get() - before == 1


def answer_of_kept(client: socket.socket) -> int:
    return int(client.recv(65536).split()[1])


def test_one_that_alone_is_too_large_is_refused_itself(service: Service) -> None:
    with begin(service, 200 * KIB, 150 * KIB) as client:
        assert answer(client)[0] == 503
    wait_for(service, 0)


def test_a_client_that_leaves_gives_its_bytes_back(service: Service) -> None:
    with begin(service, 60 * KIB, 30 * KIB):
        wait_for(service, 30 * KIB)
    wait_for(service, 0)


def test_an_answer_holds_no_body(service: Service) -> None:
    service.engine.script = said("never at its end", gap_s=30)
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(CHAT) + CHAT)
        while not service.engine.running:
            time.sleep(0.005)
        wait_for(service, 0)
        assert service.engine.running == 1
