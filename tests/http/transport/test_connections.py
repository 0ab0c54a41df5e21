"""More connections than may be open: who makes room, who is refused, and that /ping is always answered."""

import contextlib
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from lmi_chat.http.transport.connections import Connections, most_connections
from lmi_chat.limits import ConnectionLimits
from lmi_chat.observability.metrics import BOUND_REACHED
from tests.http.transport.test_protocol import (
    PATIENCE_S,
    POST,
    Site,
    get,
    only,
    post,
    read_to_end,
    read_until,
    serve,
)

MOST = 8
SPARE = Connections(MOST).spare


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(ConnectionLimits(), keep_alive_s=60, connections=Connections(MOST, ("/nap",))) as running:
        yield running


@contextlib.contextmanager
def many(site: Site, count: int, raw: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open `count` connections that send `raw`, one after the other."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(stack.enter_context(site.connect()))
            if raw:
                clients[-1].sendall(raw)
        yield clients


def ended(client: socket.socket) -> bool:
    """Whether the server has closed it."""
    client.settimeout(0.05)
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except TimeoutError:
        return False


def test_the_oldest_idle_connection_makes_room(site: Site) -> None:
    before = BOUND_REACHED.labels("max_connections")._value.get()
    with many(site, MOST) as clients:
        while len(site.server.server_state.connections) < MOST:
            time.sleep(0.005)
        clients[0].sendall(post(b"/echo", b"one"))  # it is the youngest now
        read_until(clients[0], b"got one")
        with many(site, 2, post(b"/echo", b"two")) as newcomers:
            for client in newcomers:
                read_until(client, b"got two")
            assert [ended(client) for client in clients] == [False, True, True, *[False] * (MOST - 3)]
            clients[0].sendall(post(b"/echo", b"three"))
            read_until(clients[0], b"got three")
    assert BOUND_REACHED.labels("max_connections")._value.get() - before == 2


@pytest.mark.parametrize("raw", [b"POST /echo HTT", POST + b"Content-Length: 9\r\n\r\nabc"])
def test_a_request_that_comes_slowly_makes_room_and_is_told(site: Site, raw: bytes) -> None:
    with many(site, MOST, raw) as clients, site.connect() as newcomer:
        newcomer.sendall(post(b"/echo", b"one"))
        read_until(newcomer, b"got one")
        status, headers, body = only(read_to_end(clients[0]))
        assert (status, headers["connection"]) == (503, "close")
        assert b"max_connections" in body
        assert not any(ended(client) for client in clients[1:])


def test_a_flood_of_slow_heads_leaves_no_socket_behind(site: Site) -> None:
    """Those that made room linger for their answer's sake, but not more than so many of them."""
    with many(site, MOST + 3 * SPARE, b"POST /echo HTT"), site.connect() as newcomer:
        newcomer.sendall(post(b"/echo", b"one"))
        read_until(newcomer, b"got one")
        assert len(site.server.server_state.connections) <= MOST + SPARE + 1


def test_no_answer_is_cut_for_a_newcomer_and_ping_is_answered(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with many(site, MOST, get(b"/wait")):
        for _ in range(MOST):
            assert site.app.started.acquire(timeout=PATIENCE_S)
        with site.connect() as refused:
            refused.sendall(post(b"/echo", b"one"))
            check_busy(only(read_to_end(refused)))
        with site.connect() as pinged:
            pinged.sendall(get(b"/nap?x=1"))
            read_until(pinged, b"got ")
        with many(site, SPARE + 4) as idle, site.connect() as pinged:  # those who say nothing keep nobody out
            pinged.sendall(get(b"/nap"))
            read_until(pinged, b"got ")
            assert any(ended(client) for client in idle)
        assert site.app.gone == []
    said = [record.message for record in caplog.records if record.name.endswith("refusals")]
    assert all(line.startswith("max_connections: ") for line in said)
    assert len(said) <= 2, "one line in ten seconds"
    caplog.clear()


def check_busy(answer: tuple[int, dict[str, str], bytes]) -> None:
    assert (answer[0], answer[1]["connection"]) == (503, "close")
    assert int(answer[1]["retry-after"]) > 0


@pytest.mark.parametrize(("hard", "most"), [(64, 32), (256, 160), (1024, 736), (1 << 20, 4096)])
def test_the_limit_of_descriptors_bounds_the_connections(hard: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: raised.append(both))
    assert most_connections(4096) == most
    assert raised == [(hard, hard)]
    assert most + Connections(most).spare <= hard - 24, "there are descriptors left for all else"
