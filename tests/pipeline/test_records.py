"""Bodies of several records in JSON Lines, at every door that production uses."""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from lmi_chat.errors import BadField, BadJson, BadMedia, Bug, Busy
from lmi_chat.job import Job
from lmi_chat.limits import Limits
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.pipeline import records
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline, PipelineConfig
from lmi_chat.pipeline.request import of_headers
from lmi_chat.storage.sessions import Sessions
from tests.http.test_app import CHAT, Reply, send
from tests.http.test_sagemaker import boto
from tests.pipeline.test_pipeline import Kept, opened
from tests.support.fakes import deployment
from tests.support.scripted import Scripted, Service, Step, said, serving

TYPES = ("application/jsonlines", "application/x-ndjson", "application/json-lines", "application/x-jsonlines")
LINES = {"content-type": TYPES[0]}


def text_of(job: Job) -> Sequence[Step]:
    """Answers with the prompt: longer ones take longer."""
    if "boom" in job.prompt_text:
        return (ValueError("boom"),)
    if "fault" in job.prompt_text:
        return (Bug("the engine failed"),)
    return said(job.prompt_text, gap_s=0.001)(job)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(Scripted(text_of, max_running=2)) as running:
        yield running


def body_of(*given: object) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in given)


def answers(reply: Reply) -> list[Any]:
    status, headers, data = reply
    assert (status, headers["content-type"]) == (200, "application/jsonlines")
    assert int(headers["content-length"]) == len(data)
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data[:-1].split(b"\n")]


@pytest.mark.parametrize("content_type", [*TYPES, "Application/JSONLines; charset=utf-8"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\n"])
def test_one_record_is_a_request(service: Service, content_type: str, end: bytes) -> None:
    asked = body_of({"inputs": "abc"}) + end
    assert answers(send(service, asked, {"content-type": content_type})) == [{"generated_text": "abc"}]


def test_one_record_may_ask_for_a_document_and_stream_and_fail(service: Service) -> None:
    status, headers, answer = send(service, body_of({"inputs": "a"}), LINES | {"accept": "application/json"})
    assert (status, headers["content-type"], answer) == (200, "application/json", {"generated_text": "a"})
    status, headers, data = send(service, body_of({"inputs": "abc", "stream": True}), LINES)
    assert (status, headers["content-type"], data.count(b"\n")) == (200, "application/jsonlines", 3)
    assert send(service, body_of({"inputs": 5}), LINES)[0] == 400


@pytest.mark.parametrize("path", ["/invocations", "/endpoints/e/invocations", "/predictions/tiny"])
def test_no_line_hurts_another_and_all_stand_in_order(service: Service, path: str) -> None:
    asked = body_of(
        {"inputs": "a long one that ends last"},
        b"{",
        b"",
        {**CHAT, "max_tokens": 0},
        b'{"inputs":"\xff"}',
        {"inputs": "boom"},
        b"[1]",
        {"inputs": "fault"},
        {"foo": 1},
        {"inputs": "a", "stream": True},
        CHAT,
        {"prompt": "z"},
        {"inputs": "b", "model": "nope"},
        {"inputs": "last", "parameters": {"tempratur": 1}},
    )
    reply = send(service, asked, LINES, path)
    found = answers(reply)
    assert [one["generated_text"] for one in (found[0], found[-1])] == ["a long one that ends last", "last"]
    assert found[9]["choices"][0]["message"]["content"] == "user\nhi<|im_end|>\nassistant\n"
    assert found[10]["choices"][0]["text"] == "z"
    errors = [one.get("error") for one in found]
    codes = [
        error["code"] if isinstance(error, dict) else error and found[at]["code"] for at, error in enumerate(errors)
    ]
    assert codes == [
        *(None, "bad_json", "bad_field", "bad_encoding", 500, "bad_json", 500, "bad_json", 400, None, None, 404, None),
    ]
    assert errors[8] == "stream must be false in a body of several records, got true"
    assert reply[1]["x-lmi-chat-warning"].startswith("record 12: parameters.tempratur is ignored")
    assert service.pipeline.active == service.engine.running == 0


def test_a_route_that_forces_a_dialect_reads_lines_too(service: Service) -> None:
    found = answers(send(service, body_of(CHAT, {"inputs": "x"}), LINES, "/v1/chat/completions"))
    assert found[0]["object"] == "chat.completion"
    assert found[1]["error"]["param"] == "messages"


def test_the_engine_never_has_more_than_it_runs_at_once(service: Service) -> None:
    asked = body_of(*({"inputs": f"number {number}"} for number in range(40)))
    assert [one["generated_text"] for one in answers(send(service, asked, LINES))] == [f"number {n}" for n in range(40)]


def test_boto3_reads_the_lines_out_of_parts(service: Service) -> None:
    with contextlib.closing(boto(service)) as runtime:
        reply = runtime.invoke_endpoint_with_response_stream(
            EndpointName="e", ContentType=TYPES[0], Body=body_of({"inputs": "a"}, b"{", {"inputs": "b"})
        )
        data = b"".join(event["PayloadPart"]["Bytes"] for event in reply["Body"])
    assert reply["ContentType"] == "application/jsonlines"
    assert [list(json.loads(line)) for line in data.splitlines()] == [["generated_text"], ["error"], ["generated_text"]]


async def ask(line: Pipeline, body: bytes, **headers: str) -> Kept:
    given = {name.replace("_", "-").encode(): text for name, text in (LINES | headers).items()}
    out = Kept()
    await line.answer(of_headers(given, body=body), out)
    return out


async def test_what_is_bounded() -> None:
    line, engine = await opened(said("Hi"), limits=Limits(max_lines=3))
    with pytest.raises(BadJson, match=r"the body has 4 lines; at most 3 are read \(option.max_lines\)"):
        await ask(line, b"\n\n\n{}")
    with pytest.raises(BadJson, match="has 1000001 lines"):
        await ask(line, b"\n" * 1_000_001)
    with pytest.raises(BadMedia, match="content-encoding"):
        await ask(line, body_of({"inputs": "a"}, {"inputs": "b"}), content_encoding="gzip")
    assert len(engine.jobs) == 1, "the canary"


async def test_answers_are_held_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "ANSWERS_BYTES", 20)
    line, engine = await opened(said("Hi"), max_running=1)
    found = (await ask(line, body_of(*[{"inputs": "a"}] * 4))).data.splitlines()
    assert json.loads(found[0]) == {"generated_text": "Hi"}
    assert [json.loads(one)["error"]["code"] for one in found[1:]] == ["body_too_large"] * 3
    assert len(engine.jobs) == 2, "the canary and one record"


async def test_a_queue_without_room_refuses_the_whole_before_it_has_begun() -> None:
    line = Pipeline(PipelineConfig(queue=0))
    engine = Scripted(said("slow", gap_s=0.02), max_running=1)
    await line.open(engine, deployment())
    waiting = [asyncio.create_task(ask(line, body_of({"inputs": "a"}))) for _ in range(2)]
    while engine.running < len(waiting):
        await asyncio.sleep(0)
    with pytest.raises(Busy, match="no room for the first record"):
        await ask(line, body_of({"inputs": "a"}, {"inputs": "b"}))
    await asyncio.gather(*waiting)
    assert (await ask(line, body_of({"inputs": "a"}, {"inputs": "b"}))).data.count(b"slow") == 2


async def test_the_deadline_is_the_whole_bodys() -> None:
    line = Pipeline(PipelineConfig(deadline_s=0.2))
    await line.open(Scripted(lambda job: [] if "never" in job.prompt_text else said("Hi")(job)), deployment())
    out = await ask(line, body_of({"inputs": "a"}, *[{"inputs": "never"}] * 9, {"inputs": "b"}))
    found = [json.loads(each) for each in out.data.splitlines()]
    assert found[0] == {"generated_text": "Hi"}
    assert ["within 0." in str(one["error"]) for one in found[1:10]] == [True] * 9
    assert (line.active, line._promised) == (0, 0)


async def test_a_client_that_goes_takes_all_records_off_the_engine() -> None:
    line, engine = await opened(said("slow", gap_s=5.0))
    asking = asyncio.create_task(ask(line, body_of(*[{"inputs": "a"}] * 9)))
    while engine.running < engine.max_running:
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (line.active, engine.running) == (0, 0)


async def test_a_drain_lets_accepted_records_finish() -> None:
    line = Pipeline(PipelineConfig())
    engine = Scripted(said("Hi", gap_s=0.01), max_running=1)
    await line.open(engine, deployment())
    asking = asyncio.create_task(ask(line, body_of(*[{"inputs": "a"}] * 4)))
    while not engine.running:
        await asyncio.sleep(0)
    await line.drain(5.0)
    assert (await asking).data == b'{"generated_text":"Hi"}\n' * 4


async def test_records_of_a_session_are_its_turns_one_after_the_other() -> None:
    line, engine = await opened(said("Hi"), sessions=Sessions(seconds=60, most=4))
    opening = InferenceRequest(body=b'{"requestType":"NEW_SESSION"}', id="t")
    await line.answer(opening, Kept())
    session_id = opening.headers["X-Amzn-SageMaker-New-Session-Id"].partition(";")[0]
    await ask(line, body_of(CHAT, CHAT, CHAT), x_amzn_sagemaker_session_id=session_id)
    assert engine.jobs[-1].prompt_text.count("user\nhi") == 3
    with pytest.raises(BadField, match="open the session first"):
        await ask(line, body_of(CHAT, CHAT), x_amzn_sagemaker_session_id="NEW_SESSION")


async def test_each_record_has_its_line_in_the_log() -> None:
    lines: list[bytes] = []
    line, _ = await opened(said("Hi"), request_log=RequestLog(lines.append))
    await ask(line, body_of({"inputs": "a"}, b"{"), x_request_id="r")
    found = [json.loads(each) for each in lines]
    assert {(one["id"], one["status"], one["error"], one["completion_tokens"]) for one in found} == {
        ("r-0", 200, None, 2),
        ("r-1", 400, "bad_json", 0),
    }
