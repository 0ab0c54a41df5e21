"""invoke_endpoint_async by boto3: a file in, a file out, the same line in between."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.async_requests import AsyncRequest, AsyncRequests
from lmi_chat.async_requests.folder import Folder
from lmi_chat.errors import Bug, EngineDown
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline, PipelineConfig
from tests.http.test_app import CHAT, JSON, post, send
from tests.http.test_sagemaker import boto
from tests.pipeline.test_pipeline import breaking
from tests.support import speech
from tests.support.fakes import deployment
from tests.support.scripted import Scripted, Service, said, serving

pytestmark = pytest.mark.processes


def spooling(folder: Path, **limits: int) -> Callable[[Pipeline], AsyncRequests]:
    values = {"most": 4, "at_once": 2, "max_body_bytes": 4096} | limits
    return lambda line: AsyncRequests(line, Folder(folder), **values)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(spool=spooling(tmp_path)) as running:
        yield running


@pytest.fixture
def ask(service: Service) -> Iterator[Any]:
    client = boto(service, retries={"total_max_attempts": 1})
    given = partial(client.invoke_endpoint_async, EndpointName="e", ContentType="application/json")
    given.exceptions = client.exceptions  # type: ignore[attr-defined]
    yield given
    client.close()


def placed(folder: Path, body: object, name: str = "in.json") -> str:
    (folder / name).write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
    return (folder / name).as_uri()


def left(location: str) -> bytes:
    """What is in the file, as soon as it is there."""
    path, end = Path(location.removeprefix("file://")), time.monotonic() + 5
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.005)
    return path.read_bytes()


def test_a_file_in_a_file_out(service: Service, ask: Any, tmp_path: Path) -> None:
    reply = ask(InputLocation=placed(tmp_path, CHAT), InferenceId="my-id")
    assert (reply["ResponseMetadata"]["HTTPStatusCode"], reply["InferenceId"]) == (202, "my-id")
    answer = json.loads(left(reply["OutputLocation"]))
    assert answer["choices"][0]["message"]["content"] == "Hello!"
    assert service.engine.jobs[-1].id == "my-id"
    assert not Path(reply["FailureLocation"].removeprefix("file://")).exists()
    again = ask(InputLocation=placed(tmp_path, CHAT), InferenceId="my-id")
    assert again["OutputLocation"] != reply["OutputLocation"]


def test_another_route_by_its_attribute(service: Service, ask: Any) -> None:
    body = json.dumps({**CHAT, "stream": True})
    events = left(ask(Body=body, CustomAttributes="route=/v1/chat/completions")["OutputLocation"])
    assert events.endswith(b"data: [DONE]\n\n")
    path, attributes = "/endpoints/e/async-invocations", {"x-amzn-sagemaker-custom-attributes": "route=/v1/x"}
    status, _, answer = post(service, CHAT, path=path, headers={"content-type": "application/json", **attributes})
    assert status == 404
    assert "the inference routes are" in answer["Message"]


def test_a_recording(ask: Any, service: Service) -> None:
    """The form reaches the pipeline as it came; this model hears nothing, and says so."""
    failure = left(ask(Body=speech.form({}, speech.recording(0.1)), ContentType=speech.FORM)["FailureLocation"])
    assert "the served model tiny generates text and hears no recordings" in json.loads(failure)["error"]["message"]
    assert not service.pipeline.active


def test_the_endpoints_name_and_several_records(ask: Any) -> None:
    named = json.dumps({"inputs": "a", "model": "e"})
    assert json.loads(left(ask(Body=named)["OutputLocation"])) == {"generated_text": "Hello!"}
    several = left(ask(Body=f"{named}\n{{\n{named}\n", ContentType="application/jsonlines")["OutputLocation"])
    assert ["error" in json.loads(line) for line in several.splitlines()] == [False, True, False]


def test_a_body_a_stream_and_a_name_of_its_own(ask: Any, tmp_path: Path) -> None:
    reply = ask(Body=b'{"inputs":"a"}', Filename="mine.out", S3OutputPathExtension="/today/x")
    assert reply["OutputLocation"] == (tmp_path / "output/today/x/mine.out").as_uri()
    assert json.loads(left(reply["OutputLocation"])) == {"generated_text": "Hello!"}
    lines = left(ask(Body=json.dumps({**CHAT, "stream": True}))["OutputLocation"]).splitlines()
    assert [json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines] == [*"Hello!", ""]
    events = left(ask(Body=json.dumps({**CHAT, "stream": True}), Accept="text/event-stream")["OutputLocation"])
    assert events.endswith(b"data: [DONE]\n\n")
    plain = ask(Body=b"hello", ContentType="text/plain")
    assert json.loads(left(plain["OutputLocation"])) == {"generated_text": "Hello!"}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("error", [Bug("boom"), EngineDown("the engine is gone")])
def test_a_failure_is_a_document_of_its_own(
    service: Service,
    ask: Any,
    error: Any,
    is_stream: bool,  # noqa: FBT001
) -> None:
    service.engine.script = breaking(error)
    reply = ask(Body=json.dumps({**CHAT, "stream": is_stream}))
    assert json.loads(left(reply["FailureLocation"]))["error"]["message"] == error.message
    assert not Path(reply["OutputLocation"].removeprefix("file://")).exists()


def test_a_place_that_cannot_be_written_is_a_failure_too(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "output").write_text("no folder")
    failure = left(ask(Body=b'{"inputs":"a"}', Filename="a.out")["FailureLocation"])
    assert json.loads(failure)["error"] == "the answer could not be written to its output location"


def test_no_answer_replaces_another(ask: Any) -> None:
    """Neither one that is there nor one that is still to come."""
    answers = [ask(Body=json.dumps({"inputs": text}), Filename="a.out") for text in ("a", "bb")]
    left(answers[0]["OutputLocation"])
    answers.append(ask(Body=json.dumps({"inputs": "ccc"}), Filename="a.out"))
    places = [answer["OutputLocation"] for answer in answers]
    assert places[0].endswith("/output/a.out")
    assert len(set(places)) == 3
    assert all(place.endswith("a.out") for place in places)
    for place in places:
        assert json.loads(left(place))["generated_text"] == "Hello!"


@pytest.mark.parametrize("text", ["000003600999999", "01", "0x10", "1e3", "١", "-5", "99999999999999999999"])
def test_seconds_are_whole_numbers_as_one_writes_them(service: Service, text: str) -> None:
    headers = {"content-type": "application/json", "x-amzn-sagemaker-invocationtimeoutseconds": text}
    headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    status, _, answer = send(service, b'{"inputs":"a"}', headers, path="/endpoints/e/async-invocations")
    assert status == 400
    assert "InvocationTimeoutSeconds must be a whole number" in answer["Message"]


def test_bad_bodies_fail_in_their_dialects_words(ask: Any) -> None:
    failure = json.loads(left(ask(Body=b'{"inputs":"a","parameters":{"top_p":2}}')["FailureLocation"]))
    assert (failure["code"], failure["param"]) == (400, "parameters.top_p")
    failure = json.loads(left(ask(Body=b"{")["FailureLocation"]))
    assert failure["error"]["code"] == "bad_json"


def test_the_time_of_an_answer_is_the_requests_own(service: Service, ask: Any) -> None:
    service.engine.script = said("slow", gap_s=1.0)
    failure = left(ask(Body=json.dumps(CHAT), InvocationTimeoutSeconds=1)["FailureLocation"])
    assert json.loads(failure)["error"]["message"] == "no answer within 1 s"


def test_what_is_not_accepted(service: Service, ask: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    location, more = placed(tmp_path, CHAT), "x-amzn-sagemaker-"
    for fields, words in (
        ({}, "exactly one of them"),
        ({"Body": b"{}", "InputLocation": location}, "exactly one of them"),
        ({"Body": b" " * 128_001}, "Body must have at most 128000 bytes"),
        ({"InputLocation": "s3://bucket/in.json"}, "must be a file:// URL"),
        ({"InputLocation": "file:///etc/passwd"}, "must name a file in option.async_folder"),
        ({"InputLocation": location.replace("in.json", "../x")}, "must name a file in option.async_folder"),
        ({"InputLocation": location.replace("in.json", "link")}, "InputLocation cannot be read"),
        ({"InputLocation": location.replace("in.json", "none")}, "InputLocation cannot be read: No such file"),
        ({"InputLocation": placed(tmp_path, b" " * 4097, "big")}, "more than 4096 bytes"),
        ({"Body": b"{}", "S3OutputPathExtension": "a/../../b"}, "S3OutputPathExtension must have parts"),
        ({"Body": b"{}", "S3OutputPathExtension": "a" * 256}, "at most 255 characters"),
        ({"Body": b"{}", "Filename": "../x"}, "Filename must have at most 32 characters"),
        ({"Body": b"{}", "RequestTTLSeconds": 21_601}, "RequestTTLSeconds must be a whole number, at least 60"),
        ({"Body": b"{}", "InvocationTimeoutSeconds": 3601}, "at least 1 and at most 3600, got"),
    ):
        with pytest.raises(ask.exceptions.ValidationError, match=words):
            ask(**fields)
    status, _, answer = post(service, CHAT, path="/endpoints/e/async-invocations", headers={more + "filename": "a b"})
    assert (status, answer.keys()) == (400, {"Message"})
    assert not (tmp_path / "output").exists()


def test_off_unless_a_folder_is_named() -> None:
    with serving() as service:
        client = boto(service)
        with pytest.raises(client.exceptions.ValidationError, match="async_folder is not set"):
            client.invoke_endpoint_async(EndpointName="e", Body=b"{}")
        client.close()


def test_so_many_are_held_and_the_others_told_to_come_again(service: Service, ask: Any) -> None:
    service.engine.script = said("slow", gap_s=0.1)
    held = [ask(Body=json.dumps(CHAT)) for _ in range(4)]
    with pytest.raises(ask.exceptions.ServiceUnavailable, match="all 4 places for asynchronous requests"):
        ask(Body=json.dumps(CHAT))
    assert service.engine.running <= 2
    for reply in held:
        assert b"slow" in left(reply["OutputLocation"])
    service.engine.script = said("Hello!")
    assert left(ask(Body=json.dumps(CHAT))["OutputLocation"])


def test_a_full_line_is_waited_for(tmp_path: Path) -> None:
    engine = Scripted(said("abc", gap_s=0.1), max_running=1)
    with serving(engine, policy=PipelineConfig(queue=0), spool=spooling(tmp_path)) as service:
        client = boto(service)
        live = [threading.Thread(target=lambda: post(service, CHAT)) for _ in range(2)]
        for thread in live:
            thread.start()
        while engine.running < 2:
            time.sleep(0.005)
        assert post(service, CHAT)[0] == 503
        reply = client.invoke_endpoint_async(EndpointName="e", Body=json.dumps(CHAT))
        assert b"abc" in left(reply["OutputLocation"])
        for thread in live:
            thread.join()
        client.close()


def order(name: str, wait_s: float = 60.0) -> AsyncRequest:
    call = InferenceRequest(body=json.dumps(CHAT).encode(), id=name)
    return AsyncRequest(request=call, source=None, output=("output", name), failure=("failure", name), wait_s=wait_s)


async def opened(folder: Path, engine: Scripted) -> tuple[Pipeline, AsyncRequests]:
    line = Pipeline(PipelineConfig())
    await line.open(engine, deployment())
    return line, spooling(folder, at_once=1)(line)


async def test_a_drain_waits_for_what_was_accepted(tmp_path: Path) -> None:
    line, spool = await opened(tmp_path, Scripted(said("abc", gap_s=0.02)))
    for name in "123":
        await spool.submit(order(name))
    await line.drain(10)
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == ["1", "2", "3"]
    with pytest.raises(Exception, match="shutting down"):
        await spool.submit(order("4"))


async def test_a_drain_has_an_end(tmp_path: Path) -> None:
    line, spool = await opened(tmp_path, Scripted(said("abc", gap_s=60.0)))
    for name in "123":
        await spool.submit(order(name))
    await asyncio.sleep(0.01)
    await line.drain(0.05)
    assert not (tmp_path / "output").exists()
    for name in "123":
        failure = json.loads((tmp_path / "failure" / name).read_bytes())
        assert failure["error"]["code"] == "draining"


async def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    line, spool = await opened(tmp_path, Scripted(said("abc", gap_s=0.1)))
    await spool.submit(order("1"))
    await spool.submit(order("2", wait_s=0.05))
    await line.drain(10)
    assert (tmp_path / "output" / "1").exists()
    assert b"the request was not started within 0.05 s" in (tmp_path / "failure" / "2").read_bytes()


def test_the_adapter_of_a_later_answer(tmp_path: Path) -> None:
    """The platform's header is the later request's; a name that is not there is the failure's own word."""
    with serving(spool=spooling(tmp_path)) as service:
        for header, status in (({}, 200), ({"X-Amzn-SageMaker-Adapter-Identifier": "french"}, 404)):
            path = "/endpoints/e/async-invocations"
            code, headers, _ = post(service, CHAT, headers=JSON | header, path=path)
            assert code == 202
            place = headers["x-amzn-sagemaker-outputlocation" if status == 200 else "x-amzn-sagemaker-failurelocation"]
            assert (b"french" in left(place)) == (status == 404)
