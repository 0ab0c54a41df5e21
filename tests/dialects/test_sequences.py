"""Several prompts and several sequences: counted through, each complete, the likeliest first."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from lmi_chat.errors import Bug
from lmi_chat.job import Delta, Finish, Finished, Job, Token, TokenLogprob
from tests.pipeline.test_pipeline import answered, opened
from tests.support.fakes import deployment
from tests.support.scripted import Step

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def token(character: str, logprob: float) -> Token:
    return Token(TokenLogprob(ord(character), logprob, character.encode()))


def script(job: Job) -> Sequence[Step]:
    """Each sequence says the prompt's last letter and its own number; higher numbers are likelier; they interleave."""
    count = job.sampling.n
    first = [Delta(index, job.prompt_text[-1], [1], [token(job.prompt_text[-1], -1.0)]) for index in range(count)]
    second = [
        Delta(index, str(index), [2], [token(str(index), -9.0 + index)], Finish("stop"))
        for index in reversed(range(count))
    ]
    done = Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=2 * count, cached_tokens=1)
    return [*first, 0.001, *second, done]


async def test_a_list_in_is_a_list_out_in_order() -> None:
    line, engine = await opened(script)
    out = await answered(line, {"inputs": ["a", "b", "c"], "parameters": {"details": True}})
    answers = json.loads(out.data)
    assert [answer["generated_text"] for answer in answers] == ["a0", "b0", "c0"]
    assert [answer["details"]["inputs"] for answer in answers] == ["a", "b", "c"]
    assert [answer["details"]["usage"]["completion_tokens"] for answer in answers] == [2, 2, 2]
    assert len({job.id for job in engine.jobs}) == 4
    assert json.loads((await answered(line, {"inputs": ["a"]})).data) == [{"generated_text": "a0"}]


async def test_a_streamed_list_counts_prompts_and_sequences() -> None:
    line, _ = await opened(script)
    sent = {"inputs": ["a", "b"], "parameters": {"n": 2, "temperature": 1.0}, "stream": True}
    lines = [json.loads(text) for text in (await answered(line, sent)).data.splitlines()]
    texts: dict[int, str] = {}
    for one in lines:
        texts[one["index"]] = texts.get(one["index"], "") + one["token"]["text"]
    assert texts == {0: "a0", 1: "a1", 2: "b0", 3: "b1"}
    ended = {one["index"]: one["generated_text"] for one in lines if one["generated_text"] is not None}
    assert ended == texts


async def test_the_likeliest_sequence_comes_first() -> None:
    line, engine = await opened(script)
    parameters = {"n": 3, "do_sample": True, "details": True}
    answer = json.loads((await answered(line, {"inputs": "a", "parameters": parameters})).data)
    assert answer["generated_text"] == "a2"
    assert [other["generated_text"] for other in answer["details"]["best_of_sequences"]] == ["a1", "a0"]
    parameters = {"best_of": 4, "do_sample": True}
    assert json.loads((await answered(line, {"inputs": "a", "parameters": parameters})).data) == {
        "generated_text": "a3"
    }
    assert engine.jobs[-1].sampling.n == 4
    parameters = {"best_of": 4, "n": 2, "do_sample": True, "details": True}
    details = json.loads((await answered(line, {"inputs": "a", "parameters": parameters})).data)["details"]
    assert [other["generated_text"] for other in details["best_of_sequences"]] == ["a2"]


async def test_greedy_sequences_run_once_and_come_back_as_often_as_asked() -> None:
    line, engine = await opened(script)
    answer = json.loads((await answered(line, {**CHAT, "n": 3, "temperature": 0})).data)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["\n0"] * 3
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 6
    assert engine.jobs[-1].sampling.n == 1
    chunks = (await answered(line, {**CHAT, "n": 2, "temperature": 0, "stream": True})).data.splitlines()
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert [choice["index"] for choice in choices] == [0, 1, 0, 0, 1, 1]
    assert [choice["delta"].get("role") for choice in choices] == ["assistant", "assistant", None, None, None, None]


async def test_chat_gives_the_best_of_several_without_showing_their_logprobs() -> None:
    line, engine = await opened(script)
    answer = json.loads((await answered(line, {**CHAT, "n": 2, "best_of": 4, "temperature": 1})).data)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["\n3", "\n2"]
    assert [choice["logprobs"] for choice in answer["choices"]] == [None, None]
    assert (engine.jobs[-1].sampling.n, engine.jobs[-1].sampling.logprobs) == (4, 0)


async def test_one_failing_prompt_fails_the_request_and_frees_all() -> None:
    line, engine = await opened(lambda job: [Bug("boom")] if job.prompt_text == "b" else [3600.0])
    with pytest.raises(Bug):
        await answered(line, {"inputs": ["a", "b", "c"]})
    assert (line.active, engine.running) == (0, 0)


async def test_tgi_compat_wraps_adds_details_and_streams_events() -> None:
    line, engine = await opened(script)
    await line.open(engine, deployment(is_tgi=True))
    [answer] = json.loads((await answered(line, {"inputs": "a"})).data)
    assert answer["generated_text"] == "a0"
    assert [one["text"] for one in answer["details"]["tokens"]] == ["a", "0"]
    assert (
        "details" not in json.loads((await answered(line, {"inputs": "a", "parameters": {"details": False}})).data)[0]
    )
    out = await answered(line, {"inputs": "a", "stream": True})
    assert out.content_type == "text/event-stream; charset=utf-8"
    assert all(json.loads(event.removeprefix(b"data:"))["token"] for event in out.data.split(b"\n\n")[:-1])
    assert b"[DONE]" not in out.data
    assert (await answered(line, {"inputs": "a", "stream": True}, "application/jsonlines")).data.startswith(b'{"index"')
    assert (await answered(line, {**CHAT, "stream": True})).content_type == "application/jsonlines"
