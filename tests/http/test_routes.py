"""An invocation that names another inference route in its Custom-Attributes; scripted engine, real HTTP."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lmi_chat.codec.framing import EVENTS
from lmi_chat.errors import NotFound
from lmi_chat.http import routes
from lmi_chat.pipeline.request import InferenceRequest
from tests.http.test_app import CHAT, JSON, post
from tests.http.test_sagemaker import boto
from tests.support.scripted import Service, serving

STREAM = {**CHAT, "stream": True}
ANY_PATHS = ["/invocations", "/predictions/tiny", "/models/tiny/invoke"]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def runtime(service: Service) -> Iterator[Any]:
    client = boto(service)
    yield client
    client.close()


def asked(service: Service, body: object, attributes: str, path: str = "/invocations") -> Any:
    return post(service, body, headers={**JSON, routes.HEADER: attributes}, path=path)


@pytest.mark.parametrize("path", ANY_PATHS)
@pytest.mark.parametrize(
    "attributes",
    [
        "route=/v1/chat/completions",
        "trace=9,route=/v1/chat/completions",
        "trace=9; route = /v1/chat/completions ;a=b",
    ],
)
def test_a_stream_has_the_shape_of_the_named_route(service: Service, path: str, attributes: str) -> None:
    status, headers, data = asked(service, STREAM, attributes, path)
    assert (status, headers["content-type"]) == (200, EVENTS.content_type)
    assert data.endswith(b"data: [DONE]\n\n")
    assert headers[routes.HEADER.lower()] == attributes


@pytest.mark.parametrize("attributes", ["trace=9", "reroute=/nowhere", "a=route=/nowhere", "route:/nowhere"])
def test_other_attributes_name_no_route(service: Service, attributes: str) -> None:
    status, headers, _ = asked(service, STREAM, attributes)
    assert (status, headers["content-type"]) == (200, "application/jsonlines")
    assert headers[routes.HEADER.lower()] == attributes


def test_the_named_route_insists_on_its_dialect(service: Service) -> None:
    status, _, answer = asked(service, CHAT, "route=/v1/completions")
    assert status == 400
    assert "prompt" in answer["error"]["message"]
    status, _, answer = asked(service, {"prompt": "a"}, "route=/v1/completions")
    assert (status, answer["object"]) == (200, "text_completion")
    assert asked(service, CHAT, "route=/invocations")[0] == 200


@pytest.mark.parametrize("path", ["", "/v1/models", "/ping", "/v1/chat/completions/", "//v1/completions", "/generate"])
def test_an_unknown_route_is_a_404_that_lists_those_there_are(service: Service, path: str) -> None:
    before = len(service.engine.jobs)
    status, _, answer = asked(service, CHAT, f"route={path}")
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "not_found", routes.HEADER)
    assert all(route in answer["error"]["message"] for route in routes.ROUTES)
    assert len(service.engine.jobs) == before


def test_a_route_of_one_dialect_goes_nowhere_else(service: Service) -> None:
    status, _, answer = asked(service, CHAT, "route=/v1/completions", "/v1/chat/completions")
    assert (status, answer["object"]) == (200, "chat.completion")


def test_boto3_names_a_route(runtime: Any) -> None:
    given = {"EndpointName": "e", "ContentType": "application/json", "CustomAttributes": "route=/v1/chat/completions"}
    whole = runtime.invoke_endpoint(**given, Body=json.dumps(CHAT))
    assert json.loads(whole["Body"].read())["object"] == "chat.completion"
    assert whole["CustomAttributes"] == given["CustomAttributes"]
    reply = runtime.invoke_endpoint_with_response_stream(**given, Body=json.dumps(STREAM))
    assert reply["ContentType"] == EVENTS.content_type
    joined = b"".join(event["PayloadPart"]["Bytes"] for event in reply["Body"])
    assert joined.startswith(b"data: {")
    assert joined.endswith(b"data: [DONE]\n\n")
    with pytest.raises(runtime.exceptions.ModelError) as caught:
        runtime.invoke_endpoint(**{**given, "CustomAttributes": "route=/v1/nothing"}, Body=json.dumps(CHAT))
    assert caught.value.response["OriginalStatusCode"] == 404
    assert "the inference routes are /invocations, " in caught.value.response["OriginalMessage"]


def test_tgis_paths_are_routes_where_they_are_served() -> None:
    request = InferenceRequest(body=b"", id="1")
    routes.follow(request, "route=/generate_stream", routes.served(is_tgi=True))
    assert (request.forced, request.route_shape) == ("generate_stream", "events")
    with pytest.raises(NotFound, match="the inference routes are"):
        routes.follow(InferenceRequest(body=b"", id="1"), "route=/generate", routes.served(is_tgi=False))
