"""Model directories with code of their own, unchanged under DJL's Java engine and under the command `djl-serving`."""

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.server import default_model
from tests.java.bridge import ROOT, bridge

pytestmark = pytest.mark.timeout(900)  # engines start, and start anew
MODELS = Path(__file__).parent / "models"
Ask = Callable[[Any], tuple[int, str, bytes]]
"""A body → status, content type, body."""


@pytest.fixture(scope="module", params=["djl", "shim"])
def surface(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asking(folder: Path, place: Path, surface: str) -> Iterator[Ask]:
    model = default_model.folder()
    if surface == "djl":
        # DJL's own djl_python stands before the shim's; there is a model.py in ROOT, too
        path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "shim")])
        with bridge(folder, place, f"model_id={model}", "predict_timeout=100", PYTHONPATH=path) as driven:

            def ask(body: Any) -> tuple[int, str, bytes]:
                answer = driven.ask(body)
                return answer.code, answer.header("content-type"), answer.body

            yield ask
        return
    place.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "shim")]),
        "OPTION_MODEL_ID": str(model),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    command = [sys.executable, "-m", "lmi_chat.cli.djl_serving", str(folder), "--host", "127.0.0.1", "--port", "0"]
    with (place / "log").open("w") as log, subprocess.Popen(command, stderr=log, env=environment) as process:
        try:
            while "ready after" not in (said := (place / "log").read_text()):
                assert process.poll() is None, said
                time.sleep(0.1)
            port = re.search(r"http://127.0.0.1:(\d+)", said)
            assert port
            yield lambda body: posted(int(port[1]), body)
            process.terminate()
            assert process.wait(40) == 0
        finally:
            process.kill()


def posted(port: int, body: Any) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/invocations", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, answer.headers["content-type"], data


@pytest.fixture(scope="module")
def custom(surface: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    yield from asking(MODELS / "custom_handler", tmp_path_factory.mktemp("custom") / surface, surface)


@pytest.fixture(scope="module")
def formatted(surface: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    yield from asking(MODELS / "formatters", tmp_path_factory.mktemp("formatters") / surface, surface)


def shown(surface: str, body: Any, reply: tuple[int, str, bytes]) -> None:
    print(f"{surface} > {json.dumps(body)}\n{surface} < {reply[0]} {reply[1]}\n{reply[2].decode()}")


def test_a_custom_handler(surface: str, custom: Ask) -> None:
    question = {"question": "What is the capital of France?"}
    shown(surface, question, reply := custom(question))
    assert (reply[0], json.loads(reply[2])) == (200, {"answer": "The capital of France is Paris."})
    shown(surface, body := {**question, "stream": True, "most": 3}, reply := custom(body))
    assert reply[:2] == (200, "application/jsonlines")
    assert "".join(json.loads(line)["piece"] for line in reply[2].splitlines()) == "The capital of"
    shown(surface, {}, reply := custom({}))
    assert (reply[0], json.loads(reply[2])) == (400, {"error": "question is missing", "code": 400})


def test_input_and_output_formatters(surface: str, formatted: Ask) -> None:
    shown(surface, body := {"question": "What is the capital of France?"}, reply := formatted(body))
    answer = json.loads(reply[2])
    assert (reply[0], answer["served_by"]) == (200, "custom formatter")
    assert answer["generated_text"]
    shown(surface, streamed := {**body, "stream": True}, reply := formatted(streamed))
    lines = [json.loads(line) for line in reply[2].splitlines()]
    assert [line["served_by"] for line in lines] == ["custom formatter"] * 4
    assert lines[-1]["generated_text"] == answer["generated_text"]


def test_formatters_that_fail(surface: str, formatted: Ask) -> None:
    shown(surface, body := {"inputs": "no question"}, reply := formatted(body))
    assert reply[0] == 424
    assert "the input formatter failed; the server's log says why under" in str(
        json.loads(reply[2])["error"]
    )  # an object on our own port
