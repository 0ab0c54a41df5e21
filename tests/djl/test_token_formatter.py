"""Formatters of LMI's older kind, which are called for each token."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmi_chat.djl.token_formatter import TokenFormatter
from lmi_chat.job import Delta, Finish, Finished, ParsingParams, PoolingSpec
from lmi_chat.testing import ScriptedEngine, embedded, model_directory, said
from tests.support.fakes import deployment, parse
from tests.support.scripted import Step, token

# In the manner of what LMI documents: the next token, and with the last one why it ended.
EXAMPLE = """
import json

from djl_python.output_formatter import TextGenerationOutput, output_formatter


@output_formatter
def write(request_output: TextGenerationOutput) -> str:
    best = request_output.sequences[request_output.best_sequence_index]
    token, is_first, is_last = best.get_next_token()
    shown = {"id": token.id, "text": token.text, "log_prob": token.log_prob, "first": is_first}
    if is_last:
        shown["finish_reason"] = best.finish_reason
        shown["all"] = "".join(each.text for each in best.tokens)
        shown["asked"] = request_output.input.input_text
        shown["parameters"] = request_output.input.parameters
        shown["finished"] = request_output.finished
        shown["tokens"] = len(request_output.get_tokens_as_dict())
    return json.dumps(shown) + "\\n"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


async def ask(folder: Path, code: str, body: dict[str, Any], engine: ScriptedEngine | None = None) -> httpx.Response:
    (folder / "model.py").write_text(code)
    async with (
        model_directory(folder, engine or ScriptedEngine(said("Hello!"))) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client,
    ):
        return await client.post("/invocations", json=body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "parameters"),
    [
        ({"inputs": "hi", "parameters": {"max_new_tokens": 9}}, {"max_new_tokens": 9}),
        ({"prompt": "hi", "max_tokens": 9}, {"max_tokens": 9}),
        ({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}, {"max_tokens": 9}),
    ],
)
async def test_lmis_example_is_called_for_each_token(
    folder: Path, body: dict[str, Any], parameters: dict[str, Any], *, stream: bool
) -> None:
    answer = await ask(folder, EXAMPLE, {**body, "stream": stream})
    assert answer.status_code == 200
    lines = [
        json.loads(text.removeprefix("data: "))
        for text in answer.text.splitlines()
        if text.removeprefix("data: ") not in {"", "[DONE]"}
    ]
    assert [line["text"] for line in lines] == list("Hello!")
    assert [line["first"] for line in lines] == [True] + [False] * 5
    assert all(line["log_prob"] is not None for line in lines)
    last = lines[-1]
    assert (last["all"], last["finish_reason"], last["finished"], last["tokens"]) == ("Hello!", "eos_token", True, 6)
    assert "hi" in last["asked"]
    assert last["parameters"] == parameters | ({} if "inputs" in body else {"stream": stream})


async def test_texts_of_a_whole_answer_stand_together(folder: Path) -> None:
    code = EXAMPLE.replace('return json.dumps(shown) + "\\n"', "return ('[' if is_first else '') + token.text")
    assert (await ask(folder, code, {"inputs": ["a", "b"]})).text == "[Hello![Hello!"
    assert (await ask(folder, code, {"inputs": "a", "parameters": {"n": 2}})).text == "[Hello!"


async def test_an_end_without_a_token_is_one_more_call(folder: Path) -> None:
    finish = Finish("stop")
    steps: list[Step] = [
        Delta(0, "a", [97], [token("a")]),
        Delta(0, "!", [], [], finish),
        Finished(prompt_tokens=1, completion_tokens=1),
    ]
    answer = await ask(folder, EXAMPLE, {"inputs": "hi"}, ScriptedEngine(lambda _: steps))
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [(line["id"], line["text"]) for line in lines] == [(97, "a"), (-1, "!")]
    assert lines[-1]["all"] == "a!"


async def test_a_vector_is_no_text(folder: Path) -> None:
    engine = ScriptedEngine(embedded, pooler=PoolingSpec(dimensions=4))
    answer = await ask(folder, EXAMPLE, {"input": "hi"}, engine)
    assert (answer.status_code, len(answer.json()["data"][0]["embedding"])) == (200, 4)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (EXAMPLE.replace("token.id", "token.nothing"), "the output formatter failed; the server's log says why under"),
        (EXAMPLE.replace('json.dumps(shown) + "\\n"', "7"), "the output formatter must give a str, got int"),
    ],
)
async def test_one_that_fails(folder: Path, code: str, why: str) -> None:
    answer = await ask(folder, code, {"inputs": "hi"})
    assert answer.status_code == 424
    assert why in answer.text


def test_its_tokens_are_those_of_a_text_in_one_piece() -> None:
    """Calls and reasoning are a part of it, as in LMI."""
    parsed = parse({"messages": [{"role": "user", "content": "hi"}]}, deployment())
    parsed.jobs = (replace(parsed.job, parsing=ParsingParams(choice="auto")),)
    TokenFormatter(str).apply(parsed, {"messages": []})
    assert (parsed.job.parsing, parsed.job.sampling.logprobs) == (None, 0)
