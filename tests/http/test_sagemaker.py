"""SageMaker's runtime API, asked by an unmodified boto3; scripted engine, real HTTP."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from lmi_chat.codec.eventstream import PART_BYTES
from lmi_chat.codec.framing import EVENTS
from lmi_chat.errors import Bug, CutOff, EngineDown, Error, TimedOut
from lmi_chat.job import Delta, Finish, Finished, Job
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.storage.sessions import Sessions
from tests.http.test_app import CHAT, post, send
from tests.pipeline.test_pipeline import breaking
from tests.support.scripted import Scripted, Service, Step, said, serving

STREAM = {**CHAT, "stream": True}


def boto(service: Service, **config: Any) -> Any:
    """As a user writes it, with an endpoint_url and keys that nobody looks at."""
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{service.port}",
        region_name="eu-west-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(**config),
    )


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(policy=PipelineConfig(sessions=Sessions(seconds=60, most=10)), max_body_bytes=4 * 2**20) as running:
        yield running


@pytest.fixture(scope="module")
def runtime(service: Service) -> Iterator[Any]:
    client = boto(service)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def _as_it_was(service: Service) -> Iterator[None]:
    yield
    service.engine.script = said("Hello!")
    end = time.monotonic() + 5
    while (
        service.pipeline.active or service.engine.running
    ):  # the client has its answer before the server has tidied up
        assert time.monotonic() < end
        time.sleep(0.005)


def invoke(runtime: Any, body: object, **fields: Any) -> Any:
    body = body if isinstance(body, bytes) else json.dumps(body)
    return runtime.invoke_endpoint(EndpointName="e", ContentType="application/json", Body=body, **fields)


def stream(runtime: Any, body: object, **fields: Any) -> Any:
    given = {"EndpointName": "e", "ContentType": "application/json", "Body": json.dumps(body)} | fields
    return runtime.invoke_endpoint_with_response_stream(**given)


def parts(reply: Any) -> list[bytes]:
    return [event["PayloadPart"]["Bytes"] for event in reply["Body"]]


def failed(runtime: Any, body: object, **fields: Any) -> Any:
    """The response of a typed ModelError."""
    with pytest.raises(runtime.exceptions.ModelError) as caught:
        invoke(runtime, body, **fields)
    return caught.value.response


def test_a_whole_answer_fills_boto3s_fields(service: Service, runtime: Any) -> None:
    reply = invoke(runtime, CHAT, CustomAttributes="trace=9", InferenceId="my-id", Accept="application/json")
    assert json.loads(reply["Body"].read())["choices"][0]["message"]["content"] == "Hello!"
    assert (reply["ContentType"], reply["CustomAttributes"]) == ("application/json", "trace=9")
    assert reply["InvokedProductionVariant"] == "AllTraffic"
    assert service.engine.jobs[-1].id == reply["ResponseMetadata"]["RequestId"] == "my-id"
    assert "NewSessionId" not in reply


def test_a_session_from_its_beginning_to_its_end(service: Service, runtime: Any) -> None:
    reply = invoke(runtime, CHAT, SessionId="NEW_SESSION")
    session_id, _, expires = reply["NewSessionId"].partition("; Expires=")
    assert expires.endswith("Z")
    second = {"messages": [{"role": "user", "content": "and now?"}]}
    invoke(runtime, second, SessionId=session_id)["Body"].read()
    assert "Hello!" in service.engine.jobs[-1].prompt_text
    parts(stream(runtime, {**second, "stream": True}, SessionId=session_id))
    assert service.engine.jobs[-1].prompt_text.count("Hello!") == 2
    assert invoke(runtime, {"requestType": "CLOSE"}, SessionId=session_id)["ClosedSessionId"] == session_id
    response = failed(runtime, second, SessionId=session_id)
    assert response["OriginalStatusCode"] == 400
    assert "never began here, was closed, or has expired" in response["OriginalMessage"]
    assert invoke(runtime, {"requestType": "NEW_SESSION"})["NewSessionId"].partition(";")[0] != session_id
    began = stream(runtime, STREAM, SessionId="NEW_SESSION")  # its result has no field for it
    parts(began)
    headers = began["ResponseMetadata"]["HTTPHeaders"]
    assert invoke(runtime, {"requestType": "CLOSE"}, SessionId=headers["x-amzn-sagemaker-new-session-id"].split(";")[0])


@pytest.mark.parametrize(
    ("accept", "content_type", "is_line"),
    [("", "application/jsonlines", True), ("text/event-stream", EVENTS.content_type, False)],
)
def test_each_frame_is_one_part(runtime: Any, accept: str, content_type: str, is_line: bool) -> None:  # noqa: FBT001
    reply = stream(runtime, STREAM, CustomAttributes="a", **({"Accept": accept} if accept else {}))
    assert (reply["ContentType"], reply["CustomAttributes"]) == (content_type, "a")
    assert reply["InvokedProductionVariant"] == "AllTraffic"
    assert reply["ResponseMetadata"]["HTTPHeaders"]["content-type"] == "application/vnd.amazon.eventstream"
    found = parts(reply)
    if not is_line:
        assert found.pop() == b"data: [DONE]\n\n"
        assert all(part.startswith(b"data: ") and part.endswith(b"\n\n") for part in found)
    chunks = [json.loads(part.removeprefix(b"data: ")) for part in found]
    assert [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks] == [*"Hello!", ""]


def test_the_standard_schema_streams_too(runtime: Any) -> None:
    lines = [json.loads(part) for part in parts(stream(runtime, {"inputs": "hi", "stream": True}))]
    assert [line["token"]["text"] for line in lines] == [*"Hello!"]
    assert lines[-1]["generated_text"] == "Hello!"


def test_a_whole_answer_on_the_streams_path_is_one_part(runtime: Any) -> None:
    reply = stream(runtime, CHAT)
    assert reply["ContentType"] == "application/json"
    assert [json.loads(part)["choices"][0]["message"]["content"] for part in parts(reply)] == ["Hello!"]


@pytest.mark.parametrize(
    "body", [CHAT, {"inputs": "a"}, {"prompt": "a"}, {"inputs": ["a", "b"]}, {"requestType": "NEW_SESSION"}]
)
def test_a_whole_answer_on_the_streams_path_is_a_line(runtime: Any, body: object) -> None:
    """LangChain's reader of lines waits for the newline for ever."""
    data = b"".join(parts(stream(runtime, body)))
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    assert json.loads(data)


@pytest.mark.parametrize("body", [CHAT, {"inputs": "a"}, {"prompt": "a"}], ids=["chat", "standard", "completion"])
def test_the_endpoints_name_is_a_name_of_its_model(service: Service, runtime: Any, body: dict[str, Any]) -> None:
    given = {"EndpointName": "my-endpoint", "ContentType": "application/json"}
    named = json.dumps({**body, "model": "my-endpoint"})
    assert runtime.invoke_endpoint(**given, Body=named)["Body"].read()
    assert parts(runtime.invoke_endpoint_with_response_stream(**given, Body=named))
    lines = runtime.invoke_endpoint(**given | {"ContentType": "application/jsonlines"}, Body=f"{named}\n{named}")
    assert lines["Body"].read().count(b"error") == 0
    other = {**body, "model": "other-endpoint"}
    with pytest.raises(runtime.exceptions.ModelError) as refused:
        runtime.invoke_endpoint(**given, Body=json.dumps(other))
    assert "model_not_found" in refused.value.response["OriginalMessage"] or "inputs" in body
    assert refused.value.response["OriginalStatusCode"] == 404
    assert send(service, named.encode())[0] == 404, "at another door it is nobody's name"


def test_bytes_as_the_sagemaker_sdk_sends_them(runtime: Any) -> None:
    """Its Predictor has neither a serializer nor a deserializer unless it is told: application/octet-stream, */*."""
    given = {"EndpointName": "e", "ContentType": "application/octet-stream", "Accept": "*/*"}
    reply = runtime.invoke_endpoint(**given, Body=b'{"inputs":"a"}')
    assert json.loads(reply["Body"].read()) == {"generated_text": "Hello!"}
    with pytest.raises(runtime.exceptions.ModelError) as refused:
        runtime.invoke_endpoint(**given, Body=b"a,b")
    assert refused.value.response["OriginalStatusCode"] == 415


def test_a_long_answer_is_in_several_parts() -> None:
    def long(job: Job) -> Sequence[Step]:
        delta = Delta(0, "x" * (PART_BYTES + 9), [120], [], Finish("stop"))
        return [delta, Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=1)]

    with serving(Scripted(long)) as service:
        client = boto(service)
        for body, part in ((CHAT, "message"), (STREAM, "delta")):
            found = parts(stream(client, body))
            end = found[2:]  # a stream's last chunk
            assert [len(one) == PART_BYTES for one in found] == [True, False, *(False for _ in end)]
            assert json.loads(b"".join(found[:2]))["choices"][0][part]["content"] == "x" * (PART_BYTES + 9)
        client.close()


@pytest.mark.parametrize(
    ("body", "status", "words", "shape"),
    [
        ({**CHAT, "top_p": 2}, 400, "top_p must be at least 0 and at most 1, got 2", "openai"),
        ({"inputs": "a", "parameters": {"top_p": 2}}, 400, "parameters.top_p must be at least 0", "lmi"),
        ({**CHAT, "model": "nope"}, 404, 'model "nope" is not served here', "openai"),
        ({**STREAM, "n": 0}, 400, "n must be at least 1", "openai"),
        (b"{", 400, "the body is not JSON", "openai"),
    ],
)
def test_errors_before_an_answer_are_model_errors_with_the_status_inside(
    service: Service, runtime: Any, body: Any, status: int, words: str, shape: str
) -> None:
    for ask in (invoke, stream):
        if isinstance(body, bytes) and ask is stream:
            continue
        with pytest.raises(runtime.exceptions.ModelError) as caught:
            ask(runtime, body)
        response = caught.value.response
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 424
        assert response["ResponseMetadata"]["RetryAttempts"] == 0
        assert response["OriginalStatusCode"] == status
        assert response["LogStreamArn"] == ""
        assert response["Error"]["Message"].startswith(f"Received client error ({status}) from primary with message ")
        assert words in response["Error"]["Message"]
        given = body if isinstance(body, bytes) else json.dumps(body).encode()
        own = send(service, given)  # the platform wraps what this says
        assert own[0] == status
        assert json.loads(response["OriginalMessage"]) == own[2]
        assert isinstance(own[2]["error"], dict) == (shape == "openai")


def test_a_long_error_stays_below_two_kibibytes(service: Service) -> None:
    body = {"messages": [{"role": '"\\' * 40, "content": 1} for _ in range(9)], '"' * 50: 1}
    status, headers, answer = post(service, body, path="/endpoints/e/invocations")
    assert (status, headers["x-amzn-errortype"]) == (424, "ModelError")
    assert int(headers["content-length"]) <= 2048
    assert json.loads(answer["OriginalMessage"])["error"]["code"] == "bad_field"
    assert post(service, body)[0] == 400
    assert "x-amzn-errortype" not in post(service, body)[1]


@pytest.mark.parametrize("error", [EngineDown("the engine is gone"), Bug("boom"), TimedOut("late"), CutOff("stopped")])
def test_a_generation_that_failed_is_never_sent_again(service: Service, runtime: Any, error: Error) -> None:
    """boto3's own retries would run it five times, each as long and as dear as the first."""
    service.engine.script = breaking(error)
    before = len(service.engine.jobs)
    response = failed(runtime, CHAT)
    assert len(service.engine.jobs) == before + 1
    assert response["OriginalStatusCode"] == error.status
    assert f"Received server error ({error.status})" in response["Error"]["Message"]
    assert json.loads(response["OriginalMessage"])["error"]["code"] == error.code


@pytest.mark.parametrize("accept", ["application/jsonlines", "text/event-stream"])
@pytest.mark.parametrize("error", [EngineDown("the engine is gone"), Bug("boom"), TimedOut("late")])
def test_an_error_in_mid_stream_is_raised_where_it_is_read(
    service: Service, runtime: Any, error: Error, accept: str
) -> None:
    service.engine.script = breaking(error)
    events = iter(stream(runtime, STREAM, Accept=accept)["Body"])
    said = b"".join(next(events)["PayloadPart"]["Bytes"] for _ in range(2))
    assert said.count(b'"content"') == 2
    with pytest.raises(EventStreamError, match=error.message) as caught:
        next(events)
    assert caught.value.response["Error"] == {"Code": "ModelStreamError", "Message": error.message}
    with pytest.raises(StopIteration):
        next(events)


def test_a_reader_that_closes_the_stream_ends_the_generation() -> None:
    with serving(Scripted(said("so long" * 99, gap_s=0.01))) as service:
        client = boto(service)
        body = stream(client, STREAM)["Body"]
        assert next(iter(body))["PayloadPart"]["Bytes"]
        body.close()
        end = time.monotonic() + 5
        while service.engine.running or not service.engine.left_early:
            assert time.monotonic() < end
            time.sleep(0.005)
        client.close()


def test_the_deadline_in_mid_stream() -> None:
    with serving(Scripted(said("slow", gap_s=0.3)), policy=PipelineConfig(deadline_s=0.5)) as service:
        client = boto(service)
        with pytest.raises(EventStreamError, match="not complete within"):
            parts(stream(client, STREAM))
        _, _, data = post(service, STREAM, path="/endpoints/e/invocations-response-stream")
        assert b'"ErrorCode":"ModelInvocationTimeExceeded"' in data
        client.close()


def test_what_cost_nothing_may_be_sent_again() -> None:
    with serving(is_open=False) as service:
        client = boto(service, retries={"total_max_attempts": 2})
        with pytest.raises(client.exceptions.ServiceUnavailable) as caught:
            invoke(client, CHAT)
        response = caught.value.response
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert response["ResponseMetadata"]["RetryAttempts"] == 1
        assert response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "5"
        assert response["Error"]["Message"].startswith("the model is still loading")
        client.close()


def test_what_sagemaker_itself_refuses(runtime: Any) -> None:
    for fields, words in (
        ({"Body": b"x" * (4 * 2**20 + 1)}, "4194305 bytes; at most 4194304"),
        ({"CustomAttributes": "a" * 1025}, "CustomAttributes must have at most 1024 characters"),
        ({"SessionId": "a_b"}, "SessionId must have at most 256 characters"),
        ({"EndpointName": "a_b"}, "EndpointName must be at most 63 letters"),
    ):
        given: Any = {"EndpointName": "e", "Body": b"{}"} | fields
        with pytest.raises(runtime.exceptions.ValidationError, match=words) as caught:
            runtime.invoke_endpoint(**given)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_other_paths_and_methods(service: Service) -> None:
    for path, method, status in (("/endpoints/e/nothing", "POST", 404), ("/endpoints/e/invocations", "GET", 405)):
        found = send(service, b"", path=path, method=method)
        assert (found[0], found[1]["x-amzn-errortype"]) == (status, "UnknownOperationException")
        assert found[2].keys() == {"Message"}


def test_typed_errors_are_client_errors(runtime: Any) -> None:
    with pytest.raises(ClientError) as caught:
        invoke(runtime, {"foo": 1})
    assert caught.value.response["Error"]["Code"] == "ModelError"


UNKNOWN = {**CHAT, "temprature": 1, "größe": 2}


@pytest.mark.parametrize("given", ["", "trace=9", "route=/v1/chat/completions"])
def test_what_is_warned_of_ends_the_custom_attributes_where_that_is_asked_for(given: str) -> None:
    fields = {"CustomAttributes": given} if given else {}
    with serving(policy=PipelineConfig(warns_in_attributes=True)) as service, closing(boto(service)) as runtime:
        whole = invoke(runtime, UNKNOWN, **fields)
        told = whole["CustomAttributes"]
        assert told.removeprefix(f"{given};" if given else "") == (
            "lmi-chat-warning=temprature is ignored; did you mean temperature?; gr\\xf6\\xdfe is ignored"
        )
        assert told == stream(runtime, {**UNKNOWN, "stream": True}, **fields)["CustomAttributes"]
        assert told.endswith(whole["ResponseMetadata"]["HTTPHeaders"]["x-lmi-chat-warning"])
        assert invoke(runtime, CHAT, **fields).get("CustomAttributes", "") == given


def test_custom_attributes_stay_as_they_came_elsewhere(runtime: Any) -> None:
    assert "CustomAttributes" not in invoke(runtime, UNKNOWN)
    assert invoke(runtime, UNKNOWN, CustomAttributes="trace=9")["CustomAttributes"] == "trace=9"


@pytest.mark.parametrize("length", [900, 985, 1000, 1024])
def test_custom_attributes_have_a_bound_and_the_callers_own_are_never_cut(length: int) -> None:
    given = "a" * length
    with serving(policy=PipelineConfig(warns_in_attributes=True)) as service, closing(boto(service)) as runtime:
        body = {**CHAT, **{f"unknown_{place}": 1 for place in range(30)}}
        told = invoke(runtime, body, CustomAttributes=given)["CustomAttributes"]
    assert told.startswith(given)
    assert len(told) in {length, 1024}
    assert (";lmi-chat-warning=unknown_0 is ignored"[:39] in told) == (length <= 985)
