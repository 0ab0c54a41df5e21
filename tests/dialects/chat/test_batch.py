"""Several conversations in one request, over HTTP, on a scripted engine."""

from collections.abc import Iterator
from typing import Any

import pytest

from lmi_chat.job import Job
from lmi_chat.limits import Limits
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.storage.sessions import Sessions
from tests.http.test_app import JSON, post
from tests.support.scripted import Scripted, Service, Step, said, serving

PATH = "/v1/chat/completions/batch"
FIRST, SECOND = [{"role": "user", "content": "one"}], [{"role": "user", "content": "number two"}]


def repeated(job: Job) -> list[Step]:
    """What was asked, once more."""
    return [*said(job.prompt_text)(job)]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(Scripted(repeated), policy=PipelineConfig(limits=Limits(max_prompts=4))) as running:
        yield running


def ask(service: Service, body: object, path: str = PATH) -> tuple[int, Any]:
    status, _, answer = post(service, body, path=path)
    return status, answer


def test_each_conversation_has_its_choice(service: Service) -> None:
    alone = [ask(service, {"messages": one}, "/v1/chat/completions")[1] for one in (SECOND, FIRST)]
    status, answer = ask(service, {"messages": [SECOND, FIRST], "model": "tiny"})
    assert (status, answer["object"]) == (200, "chat.completion")
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert [choice["message"] for choice in answer["choices"]] == [one["choices"][0]["message"] for one in alone]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert answer["usage"][name] == sum(one["usage"][name] for one in alone)


def test_fields_of_a_chat_hold_for_each(service: Service) -> None:
    body = {"temperature": 0.5, "max_tokens": 7, "logprobs": True, "return_token_ids": True}
    status, answer = ask(service, {"messages": [FIRST, SECOND], **body})
    assert status == 200
    first, second = service.engine.jobs[-2:]
    assert [job.sampling.temperature for job in (first, second)] == [0.5, 0.5]
    assert [choice["prompt_token_ids"] for choice in answer["choices"]] == [first.prompt_ids, second.prompt_ids]
    texts = ["".join(one["token"] for one in choice["logprobs"]["content"]) for choice in answer["choices"]]
    assert texts == [choice["message"]["content"] for choice in answer["choices"]]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"messages": FIRST}, "messages must be an array of conversations"),
        ({}, "messages must be an array of conversations, got null"),
        ({"messages": []}, "messages must have at least 1 and at most 4 conversations, got 0"),
        ({"messages": [FIRST] * 5}, "messages must have at least 1 and at most 4 conversations, got 5"),
        ({"messages": [FIRST], "stream": True}, "stream must be absent in a batch of conversations, got true"),
        ({"messages": [FIRST], "n": 2}, "n must be absent in a batch of conversations, got 2"),
        ({"messages": [FIRST], "tools": []}, "tools must be absent in a batch"),
        ({"messages": [FIRST, []]}, "messages[1]"),
        ({"messages": [FIRST, [{"role": "user"}]]}, "messages[1][0].content"),
        ({"messages": [FIRST, SECOND], "temperature": 9}, "temperature must be at least 0"),
        ({"messages": [FIRST, [{"role": "user", "content": "a" * 2000}]]}, "messages[1] has"),
    ],
)
def test_what_is_wrong_is_named_with_its_conversation(service: Service, body: object, wrong: str) -> None:
    status, answer = ask(service, body)
    assert status == 400
    assert answer["error"]["message"].startswith(wrong)


def test_a_batch_is_of_no_session() -> None:
    with serving(Scripted(repeated), policy=PipelineConfig(sessions=Sessions(seconds=60, most=4))) as service:
        headers = {**JSON, "X-Amzn-SageMaker-Session-Id": "NEW_SESSION"}
        status, head, answer = post(service, {"messages": [FIRST, SECOND]}, headers=headers, path=PATH)
        assert (status, len(answer["choices"])) == (200, 2)
        assert not any("session" in name for name in head)


def test_a_stored_completion_of_that_name_is_not_meant(service: Service) -> None:
    assert ask(service, {"messages": [FIRST], "n": 1, "stream": False, "best_of": None})[0] == 200
