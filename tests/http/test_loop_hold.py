"""No request holds the event loop: inputs made to do so, some from several clients, while another asks for /ping.

What is measured is the loop thread's processor time between two turns, in the server of production.
"""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.job import Delta, Finish, Finished, Job, Token, TokenLogprob
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.storage.completions import Completions
from lmi_chat.storage.sessions import Sessions
from tests.support.scripted import Scripted, Service, Step, serving
from tests.support.watchdog import watched

# Uncounted: what is measured is the server, not the counting of its lines, by which small calls are eight times dearer.
pytestmark = [pytest.mark.processes, pytest.mark.no_cover]

MOST_S = 0.1
TRIES = 3
MIB = 2**20
CHAT, COMPLETION, INVOCATIONS = "/v1/chat/completions", "/v1/completions", "/invocations"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
STEPS = 600
Client = Callable[[Service], int]


@cache
def talk(width: int, *, has_tokens: bool) -> Sequence[Step]:
    """The same long answer for each of `width` sequences, with 20 alternatives per token; made once."""
    top = tuple(TokenLogprob(100 + place, -1.5 - place, b"top%d" % place) for place in range(20))
    tokens = [Token(TokenLogprob(97, -0.5, b"a"), top, 1)] if has_tokens else []
    steps: list[Step] = []
    for place in range(STEPS):
        finish = Finish("length") if place == STEPS - 1 else None
        steps += [0.0, *(Delta(index, "a", [97], tokens, finish) for index in range(width))]
    return [*steps, Finished(prompt_tokens=1, completion_tokens=STEPS * width)]


def script(job: Job) -> Sequence[Step]:
    return talk(job.sampling.n, has_tokens=job.sampling.logprobs is not None)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    for width in (1, 16):
        for has_tokens in (False, True):
            talk(width, has_tokens=has_tokens)
    store = Completions(Path(tmp_path_factory.mktemp("store")) / "kept.db")
    policy = PipelineConfig(sessions=Sessions(seconds=600, most=8))
    with serving(
        Scripted(script, max_running=64), policy=policy, max_body_bytes=25 * MIB, store=store, context_tokens=100_000
    ) as running:
        yield running
    store.close()


def send(service: Service, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    with contextlib.closing(connection):
        sent = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request("GET" if body is None else "POST", path, body, sent)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers


def post(service: Service, path: str, body: Any, **headers: str) -> tuple[int, bytes, Any]:
    return send(service, path, body if isinstance(body, bytes) else json.dumps(body).encode(), **headers)


def flat(item: bytes, size: int = 24 * MIB) -> bytes:
    """A body with as many equal values as it has room for."""
    return b'{"messages":[' + (item + b",") * ((size - 20) // (len(item) + 1)) + item + b"]}"


def chat(**fields: Any) -> Any:
    return HI | {"max_tokens": STEPS} | fields


def drip(service: Service) -> int:
    """Send a body in chunks of one byte, which is refused when it has been too many."""
    body = json.dumps(HI | {"max_tokens": 1, "note": "x" * 100_000}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(head.encode() + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        return int(client.recv(65_536).split()[1])


def converse(service: Service) -> int:
    """Have a conversation of long turns in a session."""
    _, _, headers = post(service, INVOCATIONS, {"requestType": "NEW_SESSION"})
    session = headers["X-Amzn-SageMaker-New-Session-Id"].partition(";")[0]
    turn = {"messages": [{"role": "user", "content": "a" * 9000}], "max_tokens": 1}
    return max(post(service, INVOCATIONS, turn, X_Amzn_SageMaker_Session_Id=session)[0] for _ in range(8))


def keep_and_list(service: Service) -> int:
    """Store completions of megabytes, and ask for all of them on one page."""
    for _ in range(6):
        post(service, CHAT, chat(store=True, logprobs=True, top_logprobs=20))
    status, page, _ = send(service, CHAT + "?limit=100")
    assert len(page) > MIB
    return status


def ask_metrics(service: Service) -> int:
    return send(service, "/metrics")[0]


def asking(path: str, body: Any) -> Client:
    return lambda service: post(service, path, body)[0]


CJK = "\u6c49" * 660_000
DETAILS = {"details": True, "top_n_tokens": 20, "max_new_tokens": STEPS}
HOSTILE: dict[str, tuple[int, int, Callable[[], Client]]] = {
    "log-probabilities of a chat": (1, 200, lambda: asking(CHAT, chat(n=16, logprobs=True, top_logprobs=20))),
    "log-probabilities of a completion": (
        *(1, 200),
        lambda: asking(COMPLETION, {"prompt": "Hi", "n": 16, "logprobs": 20, "max_tokens": STEPS}),
    ),
    "details": (2, 200, lambda: asking(INVOCATIONS, {"inputs": "Hi", "parameters": DETAILS})),
    "CJK in a chat": (2, 400, lambda: asking(CHAT, {"messages": [{"role": "user", "content": CJK}]})),
    "CJK in a prompt": (2, 400, lambda: asking(COMPLETION, {"prompt": CJK})),
    "CJK in inputs": (2, 400, lambda: asking(INVOCATIONS, {"inputs": CJK})),
    "numbers": (3, 400, lambda: asking(CHAT, flat(b"1"))),
    "texts": (3, 400, lambda: asking(INVOCATIONS, flat(b'"a"'))),
    "a million messages": (2, 400, lambda: asking(CHAT, flat(b'{"role":"user","content":"x"}'))),
    "empty arrays": (2, 400, lambda: asking(CHAT, flat(b"[]"))),
    "deep": (4, 400, lambda: asking(CHAT, b"[" * MIB)),
    "keys": (4, 400, lambda: asking(CHAT, b"{%b}" % b",".join(b'"k%d":1' % place for place in range(400_000)))),
    "wrong logit_bias": (4, 400, lambda: asking(CHAT, chat(logit_bias={f"x{k}": "y" for k in range(12_000)}))),
    "stop strings": (4, 400, lambda: asking(CHAT, chat(stop=["stop"] * 100_000))),
    "wrong stop strings": (4, 400, lambda: asking(CHAT, chat(stop=[7] * 100_000))),
    "labels": (4, 400, lambda: asking(CHAT, chat(metadata={f"k{k}": "v" for k in range(30_000)}))),
    "unknown keys": (4, 400, lambda: asking(CHAT, {f"k{place}": 1 for place in range(30_000)})),
    "a body byte by byte": (4, 400, lambda: drip),
    "a session's long conversation": (2, 200, lambda: converse),
    "stored completions": (1, 200, lambda: keep_and_list),
    "metrics": (4, 200, lambda: ask_metrics),
}
"""Name → clients at once, the status that each gets, what makes a client."""


@contextlib.contextmanager
def pinged(service: Service) -> Iterator[list[int]]:
    """Ask for /ping again and again during this block."""
    statuses, is_over = list[int](), threading.Event()

    def ping() -> None:
        while not is_over.wait(0.01):
            statuses.append(send(service, "/ping")[0])

    thread = threading.Thread(target=ping)
    thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("name", HOSTILE)
def test_no_request_holds_the_loop(service: Service, name: str) -> None:
    """What holds the loop does so each time; a machine that pauses in between does not."""
    clients, status, make = HOSTILE[name]
    client, held_s = make(), list[float]()
    while len(held_s) < TRIES and not any(one < MOST_S for one in held_s):
        with watched(service) as watchdog, pinged(service) as statuses, ThreadPoolExecutor(clients) as pool:
            found = list(pool.map(client, [service] * clients))
        held_s.append(watchdog.longest_s)
        assert found == [status] * clients
        assert set(statuses) <= {200}
    print(f"{name}: the loop was held for {min(held_s) * 1000:.1f} ms")
    assert min(held_s) < MOST_S


def test_the_watchdog_sees_a_hold(service: Service) -> None:
    async def hold() -> None:
        sum(range(20_000_000))

    with watched(service) as watchdog:
        service.do(hold())
    assert watchdog.longest_s > MOST_S
