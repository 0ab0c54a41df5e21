"""This repository as a DJL Serving model directory, loaded by DJL's own Java engine on the real vLLM engine."""

import base64
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.java.bridge import ROOT, Answer, Bridge, bridge
from tests.real.conftest import Server, start

pytestmark = pytest.mark.timeout(900)  # engines start, and start anew
FRANCE = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
INPUTS = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 6}}
LONG = {**FRANCE, "max_tokens": 400, "ignore_eos": True}
SSE = {"Accept": "text/event-stream"}
TWELVE: list[tuple[dict[str, Any], dict[str, str]]] = [
    (FRANCE, {}),
    ({**FRANCE, "stream": True}, {}),
    ({**FRANCE, "stream": True, "stream_options": {"include_usage": True}}, SSE),
    ({**FRANCE, "logprobs": True, "top_logprobs": 2, "max_tokens": 3}, {}),
    ({**FRANCE, "n": 2, "stop": ["Paris"]}, {}),
    (INPUTS, {}),
    ({**INPUTS, "stream": True}, {}),
    ({**INPUTS, "stream": True}, SSE),
    ({"inputs": ["1, 2,", "a, b,"], "parameters": {"max_new_tokens": 4, "details": True}}, {}),
    ({"inputs": "1, 2, 3,", "parameters": {"stop_sequences": [" 6"], "details": True, "max_new_tokens": 20}}, {}),
    ({"prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}, {}),
    ({"prompt": "é🌟", "max_tokens": 4, "temperature": 0, "stream": True, "echo": True}, SSE),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("djl")


@pytest.fixture(scope="module")
def twelve(place: Path) -> dict[str, list[bytes]]:
    """The twelve answers of our own HTTP server, and of the command `djl-serving` on this directory."""
    answers: dict[str, list[bytes]] = {}
    for name, command in (("http", ("lmi_chat", "serve")), ("shim", ("lmi_chat.cli.djl_serving", str(ROOT)))):
        server = start(place / f"{name}.log", command=command)
        answers[name] = [told(server, body, headers) for body, headers in TWELVE]
        server.process.terminate()
        assert server.process.wait(30) == 0
    return answers


def told(server: Server, body: dict[str, Any], headers: dict[str, str]) -> bytes:
    status, _, data = server.post(body, **{name.lower(): text for name, text in headers.items()})
    assert status == 200
    return data


@pytest.fixture(scope="module")
def djl(place: Path, twelve: dict[str, list[bytes]]) -> Iterator[Bridge]:  # noqa: ARG001 one engine at a time
    options = ("dtype=float32", "predict_timeout=150", "model_loading_timeout=270")
    with bridge(ROOT, place / "bridge", *options) as driven:
        yield driven


def rounded(value: Any) -> Any:
    """Numbers as far as no batch changes them: two prompts may begin in one step or in two."""
    match value:
        case float():
            return round(value, 4)
        case list():
            return [rounded(item) for item in value]
        case dict():
            return {key: rounded(item) for key, item in value.items()}
        case _:
            return value


def plain(data: bytes) -> list[Any]:
    """Each document, line or event, without what is different each time."""
    texts = [text.removeprefix("data: ") for text in data.decode().splitlines() if text]
    found = [rounded(json.loads(text)) if text != "[DONE]" else text for text in texts]
    return [
        {k: v for k, v in each.items() if k not in {"id", "created"}} if isinstance(each, dict) else each
        for each in found
    ]


def test_the_same_twelve_requests_on_three_surfaces(djl: Bridge, twelve: dict[str, list[bytes]]) -> None:
    answers = [djl.ask(body, headers) for body, headers in TWELVE]
    assert [answer.code for answer in answers] == [200] * 12
    for number, (body, _) in enumerate(TWELVE):
        assert plain(answers[number].body) == plain(twelve["http"][number]), body
        assert plain(twelve["shim"][number]) == plain(twelve["http"][number]), body
    types = [answer.header("content-type") for answer in answers]
    assert (types[0], types[1], types[2]) == (
        "application/json",
        "application/jsonlines",
        "text/event-stream; charset=utf-8",
    )
    assert [len(answer.chunks) == 1 for answer in answers[:3]] == [True, False, False]


def test_sixteen_at_once(djl: Bridge) -> None:
    begun = time.monotonic()
    djl.ask({**LONG, "max_tokens": 48})
    alone = time.monotonic() - begun
    begun = time.monotonic()
    bodies = [{**LONG, "max_tokens": 48, "stream": number % 2 == 0} for number in range(16)]
    answers = [djl.answer(number) for number in [djl.send(body) for body in bodies]]
    print(f"sixteen took {(time.monotonic() - begun) / alone:.1f} times one alone")
    assert [answer.code for answer in answers] == [200] * 16
    streams = {"".join(line["choices"][0]["delta"].get("content", "") for line in plain(a.body)) for a in answers[::2]}
    wholes = {plain(answer.body)[0]["choices"][0]["message"]["content"] for answer in answers[1::2]}
    assert len(streams) == 1
    assert streams == wholes


def test_errors_before_the_answer_keep_their_status_and_text(djl: Bridge) -> None:
    for body, code, text in (
        ({**FRANCE, "temperature": 9}, 400, "temperature must be at least 0 and at most 2, got 9"),
        (
            {"inputs": "x", "parameters": {"top_p": -1}},
            400,
            "parameters.top_p must be at least 0 and at most 1, got -1",
        ),
        ({**FRANCE, "model": "gpt-4"}, 404, 'model "gpt-4" is not served here; SmolLM2-135M-Instruct is'),
    ):
        answer = djl.ask(body)
        assert (answer.code, answer.message) == (code, text)
        assert json.loads(answer.body) == {"error": text, "code": code}
    assert djl.ask("{").code == 400
    assert djl.ask(json.dumps(FRANCE), {"Content-Type": "image/png"}).code == 415


def test_ids_sessions_and_warnings_are_headers(djl: Bridge) -> None:
    opened = djl.ask({"requestType": "NEW_SESSION"}, {"x-amzn-sagemaker-inference-id": "mine"})
    assert opened.header("x-request-id") == "mine"
    session = opened.header("x-amzn-sagemaker-session-id").partition(";")[0]
    headers = {"X-Amzn-SageMaker-Session-Id": session}
    assert djl.ask({**FRANCE, "temprature": 1}, headers).header("x-lmi-chat-warning")
    closed = djl.ask({"requestType": "CLOSE"}, headers)
    assert closed.header("x-amzn-sagemaker-closed-session-id") == session


def test_a_client_that_goes_takes_nobody_along(djl: Bridge) -> None:
    """Java never tells Python; the answer runs to its end and the others are served."""
    gone = djl.send({**LONG, "stream": True}, leave_after=2)
    assert [event["event"] for event in djl.events(gone)] == ["head", "chunk", "chunk", "end"]
    assert djl.ask(FRANCE).code == 200


def processes(driven: Bridge) -> tuple[psutil.Process, list[psutil.Process]]:
    """DJL's Python process, and the engine's that it started."""
    children = psutil.Process(driven.process.pid).children(recursive=True)
    handler = next(each for each in children if "djl_python_engine.py" in " ".join(each.cmdline()))
    return handler, [each for each in handler.children(recursive=True) if "VLLM" in each.name()]


def all_end(known: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(known, timeout=10)[1]


def broken_off(driven: Bridge, kill: psutil.Process) -> tuple[Answer, Answer]:
    """Kill a process in the midst of a stream and a whole answer."""
    numbers = [driven.send({**LONG, "stream": stream}) for stream in (True, False)]
    seen = []
    for event in driven.events(numbers[0]):
        seen.append(event)
        if len(seen) == 4:
            os.kill(kill.pid, signal.SIGKILL)
    stream = Answer(chunks=[base64.b64decode(each["data"]) for each in seen if each["event"] == "chunk"])
    stream.failure = next((each["error"] for each in seen if each["event"] == "failed"), "")
    return stream, driven.answer(numbers[1])


def is_back(driven: Bridge) -> bool:
    limit = time.monotonic() + 150
    while time.monotonic() < limit:
        if driven.ask(FRANCE).code == 200:
            return True
        time.sleep(1)
    return False


def test_an_engine_that_is_killed_ends_streams_with_an_error_and_comes_back(djl: Bridge) -> None:
    handler, engine = processes(djl)
    stream, whole = broken_off(djl, next(each for each in engine if "Core" in each.name()))
    assert json.loads(stream.body.splitlines()[-1])["error"]["code"] == "engine_down"
    assert whole.code in {500, 503}
    assert all_end([handler, *engine])
    assert is_back(djl)


def test_a_handler_that_is_killed_leaves_no_orphan_and_comes_back(djl: Bridge) -> None:
    handler, engine = processes(djl)
    stream, whole = broken_off(djl, handler)
    assert b"ngine" in stream.body.splitlines()[-1] or stream.failure
    assert whole.code == 500 or whole.failure
    assert all_end([handler, *engine])
    assert is_back(djl)
