"""Any bytes on a connection get well-formed answers or its end, and everybody else is served as before."""

import json
import logging
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from random import Random

import pytest

from tests.fuzz.mutate import mutated, samples
from tests.support.scripted import Service, serving

SECONDS = float(os.environ.get("FUZZ_SECONDS", "120")) / 2
SEED = os.environ.get("FUZZ_SEED", "1")
AT_ONCE = 64
KEPT_S = 4
"""Longer than the server waits for the rest of a request; after an answer it keeps the connection."""
REQUESTS = samples(".http")
HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\r\n)*)\r\n")
CHUNK = re.compile(rb"([0-9a-fA-F]+)\r\n")
CLOSING = b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n"
CANARY = b'{"messages":[{"role":"user","content":"canary"}],"max_tokens":4,"seed":1,"temperature":0}'


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as service:
        yield service


def sent(service: Service, data: bytes, *, pieces: int = 1, leaves: bool = False) -> bytes:
    """All that comes back for these bytes: up to the connection's end, or until nothing comes for KEPT_S seconds.

    `leaves`: the client closes its side when it has sent them, which is to be gone: there may be no answer.
    """
    back = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30 if leaves else KEPT_S) as connection:
        try:
            for place in range(pieces):
                connection.sendall(data[len(data) * place // pieces : len(data) * (place + 1) // pieces])
            if leaves:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                back += part
        except (ConnectionResetError, BrokenPipeError):
            """Refused before all was read, which is an end."""
        except TimeoutError:
            if leaves:
                raise
    return back


def check(back: bytes, *, has_head: bool) -> list[int]:
    """The statuses of the answers, each of which must be whole and well-formed; after HEAD none has a body."""
    statuses = []
    while back:
        head = HEAD.match(back)
        assert head, back[:300]
        status, back = int(head[1]), back[head.end() :]
        fields = [line.partition(b":")[::2] for line in head[2].split(b"\r\n") if line]
        named = {name.lower(): value.strip() for name, value in fields}
        assert len(named) == len(fields), fields
        assert status != 500, back[:300]
        if status < 200:
            continue
        statuses.append(status)
        if has_head:
            return statuses
        body, back = take(back, named)
        if status >= 400:
            assert len(body) <= 2048
            assert json.loads(body)
    return statuses


def take(back: bytes, named: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """An answer's body, and what comes after it."""
    if b"transfer-encoding" not in named:
        length = int(named.get(b"content-length", b"0"))
        assert len(back) >= length, (named, back[:300])
        return back[:length], back[length:]
    body = b""
    while True:
        size = CHUNK.match(back)
        assert size, back[:300]
        length, back = int(size[1], 16), back[size.end() :]
        assert back[length : length + 2] == b"\r\n"
        body, back = body + back[:length], back[length + 2 :]
        if not length:
            return body, back


def canary(service: Service) -> tuple[bytes, dict[str, object]]:
    """A ping's status line and a chat's answer without what is new each time."""
    ping = sent(service, b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    back = sent(service, head + b"Content-Length: %d\r\n\r\n%s" % (len(CANARY), CANARY))
    answer = json.loads(back.partition(b"\r\n\r\n")[2])
    return ping.partition(b"\r\n")[0], {key: answer[key] for key in answer if key not in {"id", "created"}}


def is_idle(service: Service) -> bool:
    """Whether nothing runs or waits any more; what a client left is given ten seconds."""
    ends = time.monotonic() + 10
    while (service.pipeline.active or service.bodies.bytes_in_flight) and time.monotonic() < ends:
        time.sleep(0.02)
    return service.pipeline.active == 0 and service.bodies.bytes_in_flight == 0


def test_the_corpus_is_answered(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    before = canary(service)
    for data in REQUESTS:
        assert check(sent(service, data.replace(*CLOSING)), has_head=False)
    assert canary(service) == before
    assert is_idle(service)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_any_bytes_are_answered_or_end_the_connection(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    print(f"\nFUZZ_SEED={SEED}, {SECONDS:g} s of connections")
    before, statuses = canary(service), Counter[int]()
    ends = time.monotonic() + SECONDS

    def ask(number: int) -> list[int]:
        random = Random(f"{SEED}/edge/{number}")
        data = mutated(random, REQUESTS)
        if random.random() < 0.8:
            data = data.replace(*CLOSING)
        ways = {"pieces": random.choice((1, 1, 2, 7)), "leaves": random.random() < 0.1}
        try:
            return check(sent(service, data, **ways), has_head=b"HEAD" in data)  # type: ignore[arg-type]
        except BaseException as error:
            error.add_note(f"case {number} of FUZZ_SEED={SEED}: {data!r} {ways}")
            raise

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in count(0, 4 * AT_ONCE):
            if time.monotonic() > ends:
                break
            for answered in pool.map(ask, range(start, start + 4 * AT_ONCE)):
                statuses.update(answered)
            assert is_idle(service), f"something runs after cases {start} to {start + 4 * AT_ONCE}"
            assert canary(service) == before
    print(f"{start} connections: {dict(statuses)}")
    assert {200, 400, 404} <= statuses.keys()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
