"""The public testing module: its page's example, and model directories of each kind around the scripted engine."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmi_chat.djl import custom_handler, handler
from lmi_chat.job import Delta, Finish, Finished, Job, SamplingParams, TokenSink
from lmi_chat.testing import Application, ScriptedEngine, application, called, embedded, model_directory, reasoned, said
from tests.support.fakes import SPACE

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs/testing.md").read_text()
    files = re.findall(r"```python\n# (\S+)\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in files] == ["my_model/model.py", "test_my_model.py"]
    for name, code in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'shim'}"}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_it_needs_no_library_of_tests_and_no_engine() -> None:
    code = "import sys, lmi_chat.testing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"pytest", "hypothesis", "httpx", "vllm", "torch", "transformers"} & {*done.stdout.split()}


async def ask(app: Application, body: object = CHAT, path: str = "/invocations") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.post(path, json=body)


def text_of(answer: httpx.Response) -> Any:
    return answer.json()["choices"][0]["message"]["content"]


async def test_an_application_has_all_routes() -> None:
    engine = ScriptedEngine(said("Yes."))
    app = await application(engine, fingerprint="mine")
    answer = await ask(app, path="/v1/chat/completions")
    assert (text_of(answer), answer.json()["system_fingerprint"]) == ("Yes.", "mine")
    stream = await ask(app, CHAT | {"stream": True}, "/v1/chat/completions")
    assert stream.text.endswith("data: [DONE]\n\n")
    assert (engine.running, engine.left_early, len(engine.jobs)) == (0, 0, 3)


async def test_an_embedding_model() -> None:
    app = await application(ScriptedEngine(embedded, pooler=SPACE))
    assert (await ask(app, {"input": "hi"})).json()["data"][0]["embedding"] == [104.0, 2.0, 0.0, 1.0]


async def test_a_directory_without_code_is_served_by_ours(tmp_path: Path) -> None:
    async with model_directory(tmp_path, ScriptedEngine()) as app:
        assert text_of(await ask(app)) == "Hello!"


OWN = """
from djl_python import Output

loaded = {}

def handle(inputs):
    if inputs.is_empty():
        loaded.update(inputs.get_properties())
        return None
    return Output().add(loaded["greeting"] + " " + inputs.get_as_string())
"""
AROUND = """
from lmi_chat.djl import handle as answer

calls = []

async def handle(inputs):
    calls.append(inputs.is_empty())
    return await answer(inputs)
"""


async def test_a_handler_of_its_own_is_given_its_properties_at_its_load(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(OWN)
    async with model_directory(tmp_path, ScriptedEngine(), {"greeting": "hello"}) as app:
        answer = await ask(app, 7)
    assert (answer.status_code, answer.text) == (200, "hello 7")


async def test_a_handler_around_ours_is_answered_by_the_engine(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(AROUND)
    engine = ScriptedEngine(said("Yes."))
    async with model_directory(tmp_path, engine) as app:
        assert text_of(await ask(app)) == "Yes."
        lines = (await ask(app, {"inputs": "hi", "stream": True})).text.splitlines()
        assert [line.partition('"text":"')[2][:1] for line in lines] == list("Yes.")
        assert (await ask(app, {"inputs": ""})).status_code == 400
    assert sys.modules["model"].calls == [True, False, False, False]
    assert handler._lines == []


async def test_a_directory_that_does_not_load_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("1 / 0")
    with pytest.raises(custom_handler.BadDirectory, match="ZeroDivisionError"):
        async with model_directory(tmp_path, ScriptedEngine()):
            pass


async def test_the_double_looks_the_token_s_function_up_at_each_token() -> None:
    """As the engine does: the answer puts another in its place when it has begun on the wire."""
    told: list[tuple[str, bytes]] = []
    token_sink = TokenSink(lambda _id, spelled, _logprob: told.append(("first", spelled)))

    def sink(event: Any) -> None:
        if isinstance(event, Delta) and event.finish is None:
            told.append(("piece", event.text.encode()))

    def script(job: Job) -> Any:
        head, *rest = said('abc"', gap_s=0.0)(job)[:-1]
        return [head, *rest, Finished(prompt_tokens=1, completion_tokens=4)]

    engine = ScriptedEngine(script)
    async with engine.run(
        Job(id="x", prompt_ids=[1], prompt_text="", sampling=SamplingParams()), sink, token_sink
    ) as run:
        while len(told) < 2:
            await asyncio.sleep(0)
        token_sink.token = lambda _id, spelled, _logprob: told.append(("second", spelled))
        await run.task
    assert told == [("piece", b"a"), ("first", b"b"), ("second", b"c")]


async def test_the_double_sends_what_is_no_content_as_deltas() -> None:
    told: list[Any] = []
    token_sink = TokenSink(lambda _id, spelled, _logprob: told.append(spelled.decode()))
    engine = ScriptedEngine(said("ab", reasoned("c"), "e", called("f", "g"), "h"))
    async with engine.run(Job(id="x", prompt_ids=[1], prompt_text=""), told.append, token_sink) as run:
        await run.task
    *events, done = told
    assert [event if isinstance(event, str) else (event.kind, event.text) for event in events] == [
        ("content", "a"), "b", ("reasoning", "c"), "e", ("call", ""), ("call", "g"), ("content", "h")
    ]  # fmt: skip
    assert (done.reasoning_tokens, done.called, done.completion_tokens) == (1, ("f",), 7)
    assert [event.finish for event in events if isinstance(event, Delta)] == [None] * 4 + [Finish("stop")]


async def test_an_end_by_time_counts_what_was_called_until_then() -> None:
    told: list[Any] = []
    engine = ScriptedEngine(lambda job: [*said(reasoned("ab"), called("f", "{}"))(job)[:-3], 60.0])
    async with engine.run(Job(id="x", prompt_ids=[1], prompt_text=""), told.append) as run:
        while len(told) < 4:
            await asyncio.sleep(0)
        run.cut()
    assert told[-2].finish == Finish("time_limit")
    assert (told[-1].reasoning_tokens, told[-1].called, told[-1].completion_tokens) == (2, ("f",), 4)
