"""Recordings over HTTP: OpenAI's client, boto3, curl's forms; scripted engine, real server."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import jsonschema_rs
import openai
import pytest

from lmi_chat.audio import decode
from lmi_chat.errors import BadField, Problem
from lmi_chat.job import Job
from lmi_chat.limits import Limits
from lmi_chat.pipeline.bodies import BodyBudget
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.testing import ScriptedEngine, application
from tests.http.test_app import post, send
from tests.http.test_sagemaker import boto
from tests.support import speech
from tests.support.cases import closed
from tests.support.scripted import Scripted, Service, Step, said, serving
from tests.support.speech import FORM, SPEECH, recording

pytestmark = pytest.mark.processes

PATH = "/v1/audio/transcriptions"
ROUTE = f"route={PATH}"
MODEL = "tiny"


def spoken(job: Job) -> Sequence[Step]:
    """Say which clip it is, and what task."""
    if job.speech is None:
        return said("no recording")(job)
    if job.speech.recording.language == "":
        job.speech.recording.language = "en"
    return said(f"{job.speech.task} {job.speech.place}")(job)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    policy = PipelineConfig(limits=Limits(max_audio_seconds=100))
    bodies = BodyBudget(5 * 2**20)
    with serving(Scripted(spoken, speech=SPEECH), policy=policy, max_body_bytes=4 * 2**20, bodies=bodies) as running:
        yield running


def ask(service: Service, fields: dict[str, Any], file: bytes | None = None, path: str = PATH) -> Any:
    body = speech.form(fields, recording(1) if file is None else file)
    return send(service, body, {"content-type": FORM}, path=path)


def test_the_openai_client(service: Service) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none", max_retries=0)
    with client:
        file = ("speech.wav", recording(65, 8000))
        heard = client.audio.transcriptions.create(model=MODEL, file=file)
        assert heard.text == "transcribe 0 transcribe 1 transcribe 2"
        assert heard.usage
        assert heard.usage.type == "duration"
        assert heard.usage.seconds == 65
        assert client.audio.transcriptions.create(model=MODEL, file=file, response_format="text") == heard.text + "\n"
        verbose = client.audio.transcriptions.create(
            model=MODEL, file=file, response_format="verbose_json", timestamp_granularities=["segment"]
        )
        assert verbose.segments
        assert [one.start for one in verbose.segments] == [0, 30, 60]
        assert (verbose.language, verbose.duration) == ("en", 65)
        vtt = client.audio.transcriptions.create(model=MODEL, file=file, response_format="vtt")
        assert vtt.startswith("WEBVTT\n")
        events = list(client.audio.transcriptions.create(model=MODEL, file=file, stream=True))
        deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
        assert "".join(deltas) == heard.text
        assert len(deltas) > 10
        last = events[-1]
        assert last.type == "transcript.text.done"
        assert last.text == heard.text
        with pytest.warns(DeprecationWarning, match="deprecated"):  # the client's own, of the method
            assert client.audio.translations.create(model=MODEL, file=file).text.startswith("translate 0")
        with pytest.raises(openai.BadRequestError, match="must be a recording"):
            client.audio.transcriptions.create(model=MODEL, file=("a.wav", b"nothing"))
        with pytest.raises(openai.NotFoundError):
            client.audio.transcriptions.create(model="other", file=file)


def test_answers_keep_to_the_schemas_that_the_server_shows(service: Service) -> None:
    _, _, shown = send(service, b"", path="/openapi.json", method="GET")
    components = closed(shown["components"])

    def check(name: str, answer: object) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": components}
        jsonschema_rs.Draft202012Validator(schema).validate(answer)

    check("Transcription", ask(service, {})[2])
    check("VerboseTranscription", ask(service, {"response_format": "verbose_json"})[2])
    fields = {"stream": "true", "stream_continuous_usage_stats": "true"}
    *deltas, done = [json.loads(line) for line in ask(service, fields, path="/invocations")[2].splitlines()]
    for event in deltas:
        check("TranscriptionDelta", event)
    check("TranscriptionDone", done)
    check("OpenAIError", ask(service, {"temperature": "9"})[2])


def test_boto3_by_a_route_or_by_the_body_alone(service: Service) -> None:
    runtime = boto(service)
    given = {"EndpointName": "e", "Body": speech.form({"response_format": "text"}, recording(1)), "ContentType": FORM}
    for more in ({"CustomAttributes": ROUTE}, {}):
        assert runtime.invoke_endpoint(**given, **more)["Body"].read() == b"transcribe 0\n"
    given["CustomAttributes"] = "route=/v1/audio/translations"
    assert runtime.invoke_endpoint(**given)["Body"].read() == b"translate 0\n"
    given |= {"Body": speech.form({"stream": "true"}, recording(1)), "CustomAttributes": ROUTE}
    reply = runtime.invoke_endpoint_with_response_stream(**given)
    joined = b"".join(event["PayloadPart"]["Bytes"] for event in reply["Body"]).decode()
    assert joined.startswith("data: {")
    assert joined.endswith("data: [DONE]\n\n")
    alone = runtime.invoke_endpoint(EndpointName="e", Body=recording(1), ContentType="audio/wav")
    assert json.loads(alone["Body"].read())["text"] == "transcribe 0"
    runtime.close()


def test_a_form_by_its_keys_streams_lines_where_no_route_is_named(service: Service) -> None:
    status, headers, data = ask(service, {"stream": "true"}, path="/invocations")
    assert (status, headers["content-type"]) == (200, "application/jsonlines")
    assert json.loads(data.splitlines()[-1])["type"] == "transcript.text.done"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "says"),
    [
        (b"{}", "application/json", 415, "content-type must be multipart/form-data"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "content-type must be multipart/form-data"),
        (b"", "multipart/form-data", 400, "must have a boundary"),
        (b"nothing", FORM, 400, "is nowhere in the body"),
        (speech.form({"prompt": ["a", "b"]}), FORM, 400, "stands in the form more than once"),
        (speech.form(dict.fromkeys(map(str, range(65)), "x")), FORM, 400, "more than 64 parts"),
        (speech.form({"prompt": "x" * 65_537}, b""), FORM, 400, "at most 65536 bytes (option.max_form_field_bytes)"),
        (speech.form({}, recording(101, 1000)), FORM, 400, "at most 100 seconds (option.max_audio_seconds)"),
    ],
)
def test_what_is_refused(service: Service, body: bytes, content_type: str, status: int, says: str) -> None:
    found, _, answer = send(service, body, {"content-type": content_type}, path=PATH)
    assert (found, says in answer["error"]["message"]) == (status, True), answer
    assert not service.pipeline.active


def test_a_model_that_hears_nothing_is_named_at_every_door() -> None:
    with serving() as deaf:
        for path in (PATH, "/v1/audio/translations", "/invocations"):
            status, _, answer = ask(deaf, {}, path=path)
            assert (status, answer["error"]["param"]) == (400, "file")
            assert "the served model tiny generates text and hears no recordings" in answer["error"]["message"]
        assert ask(deaf, {}, path="/v1/chat/completions")[0] == 415


def test_decoded_bytes_count_until_the_answers_end(service: Service) -> None:
    """60 s are 3.8 MB of samples, out of 0.1 MB of form; two of them have no room, one after the other has."""
    engine, body = service.engine, recording(60, 1000)
    engine.script = lambda job: [0.6, *said("a")(job)]
    try:
        first: list[Any] = []
        thread = threading.Thread(target=lambda: first.append(ask(service, {}, body)))
        thread.start()
        end = time.monotonic() + 5
        while service.bodies.bytes_in_flight < 3 * 10**6:
            assert time.monotonic() < end
            time.sleep(0.005)
        status, _, answer = ask(service, {}, body)
        assert (status, answer["error"]["code"]) == (503, "busy")
        thread.join(10)
        assert first[0][0] == 200
    finally:
        engine.script = spoken
    assert ask(service, {}, body)[0] == 200
    end = time.monotonic() + 5
    while service.bodies.bytes_in_flight:
        assert time.monotonic() < end
        time.sleep(0.005)


async def test_recordings_that_wait_for_a_thread_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number, and in the time that they wait."""
    go_on = threading.Event()

    def read(*_: Any) -> Any:
        assert go_on.wait(20)
        raise BadField([Problem("file", "file was looked at")])

    configs = PipelineConfig(queue=1), PipelineConfig(deadline_s=0.2)
    app, hasty = [await application(ScriptedEngine(speech=SPEECH), config) for config in configs]
    monkeypatch.setattr(decode, "decode", read)
    body, head = speech.form({}, recording()), {"content-type": FORM}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        waiting = [asyncio.create_task(http.post(PATH, content=body, headers=head)) for _ in range(3)]
        await asyncio.sleep(0.1)
        refused = await http.post(PATH, content=body, headers=head)
        assert refused.status_code == 503
        assert "3 recordings are being prepared (option.job_queue_size)" in refused.json()["error"]["message"]
        go_on.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [400] * 3
    go_on.clear()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=hasty), base_url="http://test") as http:
        assert (await http.post(PATH, content=body, headers=head)).status_code == 504
        go_on.set()


def test_others_have_their_turn_while_a_recording_is_decoded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small body too: what it takes to decode is not in proportion to its bytes."""
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_: Any) -> Any:
        inside.set()
        assert go_on.wait(10)
        return BadField([Problem("file", "file was looked at")])

    def read(*arguments: Any) -> Any:
        raise wait(*arguments)

    monkeypatch.setattr(decode, "decode", read)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ask(service, {}, b"small")))
    thread.start()
    assert inside.wait(10)
    assert post(service, {"prompt": "a"})[0] == 400, "while the other one is being decoded"
    assert send(service, b"", path="/ping", method="GET")[0] == 200
    go_on.set()
    thread.join(10)
    assert "was looked at" in answers[0][2]["error"]["message"]
