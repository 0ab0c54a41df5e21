"""A new dialect is one folder: here ten lines, registered by one call, and served by the real app."""

from collections.abc import Iterator, Sequence

import httpx
import pytest

from lmi_chat import dialects
from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects import Deployment, Dialect, ParsedRequest
from lmi_chat.dialects.chat.body import ChatBody
from lmi_chat.dialects.completion.body import CompletionBody
from lmi_chat.dialects.standard.body import Parameters
from lmi_chat.errors import BadField, Error, Problem
from lmi_chat.job import Delta, Finished, Job, SamplingParams
from lmi_chat.limits import Limits
from tests.support.fakes import deployment
from tests.support.fakes import parse as parsed
from tests.support.scripted import Scripted, Service, serving


class Answer:
    held_bytes = 0

    def __init__(self) -> None:
        self.text = ""

    def delta(self, delta: Delta) -> Sequence[bytes]:
        self.text += delta.text
        return ()

    def done(self, _: Finished) -> Sequence[bytes]:
        return [dump({"answer": self.text})]

    def fail(self, error: Error) -> bytes:
        return dump(told(error))


def told(error: Exception) -> Json:
    return {"problem": str(error)}


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    if not body["question"]:
        raise BadField([Problem("question", "question must not be empty")])
    ids = deployment.template.encode(body["question"], add_special_tokens=True)
    job = Job(id=request_id, prompt_ids=ids, prompt_text=body["question"], sampling=SamplingParams(max_tokens=8))
    return ParsedRequest(dialect="ask", jobs=(job,), is_stream=False, render=Answer(), has_end=False)


ASK = Dialect(name="ask", key="question", parse=parse, error_body=told)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    dialects.register(ASK)
    with serving(Scripted()) as running:
        yield running
    del dialects.DIALECTS["ask"]


def ask(service: Service, body: object) -> tuple[int, Json]:
    answer = httpx.post(f"http://127.0.0.1:{service.port}/invocations", json=body)
    return answer.status_code, answer.json()


def test_a_dialect_that_is_registered_answers(service: Service) -> None:
    assert ask(service, {"question": "hi"}) == (200, {"answer": "Hello!"})
    job = service.engine.jobs[-1]
    assert (job.prompt_ids, job.sampling.max_tokens) == ([*b"hi"], 8)


def test_its_errors_have_its_own_shape(service: Service) -> None:
    assert ask(service, {"question": ""}) == (400, {"problem": "question must not be empty"})
    assert ask(service, {"question": "hi", "adapters": "a"}) == (404, {"problem": 'adapter "a" is not loaded here'})


def test_its_key_chooses_like_any_other(service: Service) -> None:
    messages = [{"role": "user", "content": "hi"}]
    status, body = ask(service, {"question": "hi", "messages": messages})
    text = "messages and question in one body: each of them chooses another kind of request; send one of them"
    assert (status, body["error"]["message"]) == (400, text)
    status, body = ask(service, {"questionn": "hi"})
    assert body["error"]["message"].endswith("requestType, question; did you mean question by questionn?")
    assert ask(service, {"messages": messages})[1]["choices"][0]["message"]["content"] == "Hello!"


@pytest.mark.parametrize(("name", "key"), [("other", "messages"), ("chat", "other")])
def test_a_name_or_a_key_that_is_taken_is_refused(name: str, key: str) -> None:
    before = dict(dialects.DIALECTS)
    with pytest.raises(ValueError, match=f"dialect {name} with key {key}: a dialect has that name or key already"):
        dialects.register(Dialect(name=name, key=key, parse=parse))
    assert before == dialects.DIALECTS


def test_the_checks_of_all_bodies_are_built_before_the_first_request() -> None:
    prepared = deployment(limits=Limits(max_n=3, max_messages=3, max_inputs=3))
    assert not prepared.checkers
    dialects.prepare(prepared)
    built = dict(prepared.checkers)
    assert {ChatBody, Parameters, CompletionBody} < built.keys()
    for body in ({"messages": [{"role": "user", "content": "a"}]}, {"inputs": "a"}, {"prompt": "a"}):
        parsed(body, deployment(limits=Limits(max_n=3, max_messages=3, max_inputs=3)))
    assert prepared.checkers == built
