"""OpenAI's Responses over HTTP: the unmodified openai package, what is kept, whose it is, and the bytes of a stream."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from lmi_chat.errors import EngineDown
from lmi_chat.http.access import ApiKeys
from lmi_chat.job import Job
from lmi_chat.limits import Limits
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.storage.completions import Completions
from tests.dialects.responses.test_request import TIME, WEATHER
from tests.dialects.responses.test_tools import CRM, RUN
from tests.http.test_app import Reply, post, send
from tests.support.scripted import Scripted, Service, Step, called, reasoned, said, serving

pytestmark = pytest.mark.processes

PATH = "/v1/responses"
PARTS = (reasoned("Hm."), "Let me see.", called("weather", '{"city":"Ulm"}'))
READS: dict[str, Any] = {"chat_template": "{tools}\n{turns}", "tool_parser": "hermes", "reasoning_parser": "x"}


def script(job: Job) -> list[Step]:
    """Call the tool that is offered until it has given something; answer a schema by JSON, all else by a text."""
    if job.sampling.constraint:
        return list(said('{"city":"Ulm","days":3}')(job))
    has_tools = job.parsing is not None and job.parsing.tools
    return list(said(*(PARTS if has_tools and "tool\n" not in job.prompt_text else ("Hello!",)))(job))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    store = Completions(tmp_path / "kept.db")
    with serving(Scripted(script), store=store, **READS) as running:
        yield running
    store.close()


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def asked(service: Service, tail: str, method: str = "GET", headers: Any = None) -> Reply:
    return send(service, b"", headers, path=PATH + tail, method=method)


def test_a_response_is_created_read_and_deleted(client: openai.OpenAI) -> None:
    made = client.responses.create(model="tiny", input="hi", instructions="Be brief.", metadata={"a": "b"})
    assert (made.output_text, made.status, made.usage and made.usage.output_tokens) == ("Hello!", "completed", 6)
    assert client.responses.retrieve(made.id) == made
    client.responses.delete(made.id)
    for gone in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)


def test_three_turns_by_the_id_of_the_last(client: openai.OpenAI, service: Service) -> None:
    first = client.responses.create(model="tiny", input="one", instructions="Be brief.")
    second = client.responses.create(model="tiny", input="two", previous_response_id=first.id)
    third = client.responses.create(model="tiny", input="three", previous_response_id=second.id)
    assert third.previous_response_id == second.id
    said_so_far = service.engine.jobs[-1].prompt_text
    turns = "user\none<|im_end|>\nassistant\nHello!<|im_end|>\nuser\ntwo<|im_end|>\nassistant\nHello!<|im_end|>"
    assert said_so_far.strip() == f"{turns}\nuser\nthree<|im_end|>\nassistant"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="x", previous_response_id="resp_none")
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_an_id_whose_key_is_escaped_is_read_in_a_thread_too(service: Service) -> None:
    made = post(service, {"input": "one"}, path=PATH)[2]
    body = json.dumps({"input": "two", "previous_response_id": made["id"]}).replace("previous_", "previous\\u005f")
    status, _, answer = send(service, body.encode(), path=PATH)
    assert (status, answer["previous_response_id"]) == (200, made["id"])


def test_the_pages_of_what_stood_before(client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input=[{"role": "user", "content": "one", "type": "message"}])
    second = client.responses.create(model="tiny", input="two", previous_response_id=first.id)
    items = list(client.responses.input_items.list(second.id, limit=1, order="asc"))
    texts = [item.content[0].text for item in items]  # type: ignore[union-attr,index]
    assert texts == ["one", "Hello!", "two"]
    assert [item.id for item in client.responses.input_items.list(second.id)] == [item.id for item in items[::-1]]
    page = client.responses.input_items.list(second.id, after=items[0].id or "", order="asc", limit=1)
    assert [item.id for item in page.data] == [items[1].id]
    assert page.has_more
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(second.id, after="msg_none")
    with pytest.raises(openai.BadRequestError, match="limit must be at least 1"):
        client.responses.input_items.list(second.id, limit=1000)


def test_the_stream_helper_folds_to_the_final_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model="tiny", input="hi", tools=[WEATHER]) as stream:  # type: ignore[list-item]
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == "Let me see."
    kept = client.responses.retrieve(final.id)
    assert [item.type for item in kept.output] == [item.type for item in final.output]
    assert (kept.output_text, kept.usage) == (final.output_text, final.usage)


def test_a_loop_of_tools(client: openai.OpenAI, service: Service) -> None:
    """By items that go back and forth, as agents do that keep nothing, and by the id of the last response."""
    asked_first: list[Any] = [{"role": "user", "content": "Weather?"}]
    tools: Any = [WEATHER, TIME]
    first = client.responses.create(model="tiny", input=asked_first, tools=tools, store=False)
    assert first.to_dict()["store"] is False
    [call] = [item for item in first.output if item.type == "function_call"]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain"}
    back = [*asked_first, *(item.to_dict() for item in first.output), output]
    second = client.responses.create(model="tiny", input=back, tools=tools, store=False)
    assert second.output_text == "Hello!"
    by_items = service.engine.jobs[-1].prompt_text
    kept = client.responses.create(model="tiny", input=asked_first, tools=tools)
    client.responses.create(model="tiny", input=[output], tools=tools, previous_response_id=kept.id)  # type: ignore[list-item]
    assert service.engine.jobs[-1].prompt_text == by_items
    assert "Rain" in by_items


PATCH = '*** Add File: "é"\n+\\d😀\n'
OTHER_PARTS = (
    called("crm__find", '{"city":"Ulm"}'),
    called("crm__run", {"input": "ls"}),
    called("run", {"input": PATCH}),
)
OTHER_TOOLS: Any = [TIME, CRM, RUN, {"type": "web_search"}]


def other_calls(job: Job) -> list[Step]:
    """Call what is no plain function until it has given something."""
    return list(said(*(OTHER_PARTS if "tool\n" not in job.prompt_text else ("Hello!",)))(job))


@pytest.mark.parametrize("is_stream", [False, True])
def test_tools_of_other_kinds(client: openai.OpenAI, service: Service, is_stream: bool) -> None:  # noqa: FBT001
    """A namespace's function and custom tool, and a custom tool outside: called, and gone on with in both ways."""
    service.engine.script = other_calls
    asked_first: list[Any] = [{"role": "user", "content": "Go."}]
    inputs: dict[int, str] = {}
    if is_stream:
        with client.responses.stream(model="tiny", input=asked_first, tools=OTHER_TOOLS) as stream:
            for event in stream:
                if event.type == "response.custom_tool_call_input.delta":
                    inputs[event.output_index] = inputs.get(event.output_index, "") + event.delta
                elif event.type == "response.custom_tool_call_input.done":
                    assert inputs[event.output_index] == event.input
            first: Any = stream.get_final_response()
    else:
        raw = client.responses.with_raw_response.create(model="tiny", input=asked_first, tools=OTHER_TOOLS)
        assert raw.headers["x-lmi-chat-warning"].startswith("tools[3] is ignored: web_search is built in elsewhere")
        first = raw.parse()
    find, run, patch = first.output
    assert (find.type, find.namespace, find.name, find.arguments) == ("function_call", "crm", "find", '{"city":"Ulm"}')
    assert (run.type, run.namespace, run.name, run.input) == ("custom_tool_call", "crm", "run", "ls")
    assert (patch.type, patch.namespace, patch.name, patch.input) == ("custom_tool_call", None, "run", PATCH)
    assert list(inputs.values()) == (["ls", PATCH] if is_stream else [])
    assert [tool.type for tool in first.tools] == ["function", "namespace", "custom"]
    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": find.call_id, "output": "Rain"},
        *({"type": "custom_tool_call_output", "call_id": call.call_id, "output": "0"} for call in (run, patch)),
    ]
    items = [item.to_dict() for item in first.output]
    back = client.responses.create(model="tiny", input=[*asked_first, *items, *outputs], tools=OTHER_TOOLS)
    assert back.output_text == "Hello!"
    by_items = service.engine.jobs[-1].prompt_text
    client.responses.create(model="tiny", input=outputs, tools=OTHER_TOOLS, previous_response_id=first.id)
    assert service.engine.jobs[-1].prompt_text == by_items
    assert '"crm__find"' in by_items
    kept = client.responses.input_items.list(back.id, order="asc")
    kinds = [item.type for item in kept]
    calls = ["function_call", "custom_tool_call", "custom_tool_call"]
    assert kinds == ["message", *calls, *(f"{kind}_output" for kind in calls)]


class Place(BaseModel):
    """What is asked for."""

    city: str
    days: int


def test_a_text_is_parsed_by_its_type(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model="tiny", input="Where?", text_format=Place)
    assert parsed.output_parsed == Place(city="Ulm", days=3)
    with client.responses.stream(model="tiny", input="Where?", text_format=Place) as stream:
        assert stream.get_final_response().output_parsed == Place(city="Ulm", days=3)


def test_only_what_runs_in_the_background_is_cancelled(client: openai.OpenAI) -> None:
    made = client.responses.create(model="tiny", input="hi")
    with pytest.raises(openai.BadRequestError, match="was not made there"):
        client.responses.cancel(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_none")
    with pytest.raises(openai.BadRequestError, match="background must be false"):
        client.responses.create(model="tiny", input="hi", background=True)


def test_what_is_kept_is_given_whole(service: Service) -> None:
    made = post(service, {"input": "hi"}, path=PATH)[2]
    assert asked(service, f"/{made['id']}?stream=false")[2] == made
    status, _, answer = asked(service, f"/{made['id']}?stream=true&starting_after=3")
    assert status == 400
    assert "stream must be false" in answer["error"]["message"]
    assert "starting_after must be absent" in answer["error"]["message"]


def test_completions_and_responses_do_not_meet(service: Service) -> None:
    made = post(service, {"input": "hi"}, path=PATH)[2]
    chat = post(service, {"messages": [{"role": "user", "content": "a"}], "store": True}, path="/v1/chat/completions")[
        2
    ]
    listed = send(service, b"", path="/v1/chat/completions", method="GET")[2]["data"]
    assert [each["id"] for each in listed] == [chat["id"]]
    for method in ("GET", "DELETE"):
        assert send(service, b"", path=f"/v1/chat/completions/{made['id']}", method=method)[0] == 404
        assert asked(service, f"/{chat['id']}", method)[0] == 404
    status, _, answer = post(service, {"input": "x", "previous_response_id": chat["id"]}, path=PATH)
    assert (status, answer["error"]["code"]) == (400, "previous_response_not_found")


def test_each_key_has_its_own(tmp_path: Path) -> None:
    store = Completions(tmp_path / "kept.db")
    keys = ApiKeys({"ann": "a" * 32, "bob": "b" * 32})
    with serving(Scripted(), store=store, api_keys=keys) as service:
        mine, other = ({"authorization": f"Bearer {letter * 32}"} for letter in "ab")
        typed = {"content-type": "application/json"}
        made = send(service, b'{"input":"hi"}', mine | typed, path=PATH)[2]
        body = json.dumps({"input": "x", "previous_response_id": made["id"]}).encode()
        assert asked(service, f"/{made['id']}", headers=mine)[0] == 200
        assert send(service, body, mine | typed, path=PATH)[0] == 200
        assert send(service, body, other | typed, path=PATH)[0] == 400
        for tail, method in (("", "GET"), ("/input_items", "GET"), ("/cancel", "POST"), ("", "DELETE")):
            assert asked(service, f"/{made['id']}{tail}", method, other)[0] == 404
        assert asked(service, f"/{made['id']}")[0] == 401
    store.close()


def test_where_nothing_is_kept() -> None:
    with serving(Scripted()) as service:
        status, headers, made = post(service, {"input": "hi"}, path=PATH)
        assert (status, made["store"]) == (200, False)
        assert "x-lmi-chat-warning" not in headers
        status, _, answer = asked(service, f"/{made['id']}")
        assert (status, answer["error"]["message"]) == (404, "no responses are stored here: option.store is not set")


def test_the_bytes_of_a_stream(service: Service) -> None:
    """Each event has its type as its name, and nothing else ends the stream; on /invocations they are lines."""
    events: bytes = post(service, {"input": "hi", "stream": True}, path=PATH)[2]
    frames = events.decode().removesuffix("\n\n").split("\n\n")
    named = [frame.split("\n") for frame in frames]
    assert all(head == f"event: {json.loads(data[6:])['type']}" for head, data in named)
    assert "[DONE]" not in events.decode()
    lines: bytes = post(service, {"input": "hi", "stream": True})[2]
    assert [json.loads(line)["type"] for line in lines.splitlines()] == [
        json.loads(data[6:])["type"] for _, data in named
    ]


def test_by_a_route_in_the_attributes(service: Service) -> None:
    headers = {"content-type": "application/json", "x-amzn-sagemaker-custom-attributes": f"route={PATH}"}
    status, _, answer = send(service, b'{"input":"hi","stream":true}', headers)
    assert status == 200
    assert answer.startswith(b"event: response.created\n")


def test_a_large_conversation_meets_its_bound(tmp_path: Path) -> None:
    store = Completions(tmp_path / "kept.db")
    with serving(Scripted(), store=store, policy=PipelineConfig(limits=Limits(max_messages=4))) as service:
        made = post(service, {"input": "1"}, path=PATH)[2]
        made = post(service, {"input": "2", "previous_response_id": made["id"]}, path=PATH)[2]
        status, _, answer = post(service, {"input": "3", "previous_response_id": made["id"]}, path=PATH)
    store.close()
    assert status == 400
    assert "at most 4 messages with the conversation before it, got 5" in answer["error"]["message"]


def test_an_engine_that_fails_in_mid_stream(client: openai.OpenAI, service: Service) -> None:
    service.engine.script = lambda job: [*said("Hello!")(job)[:4], EngineDown("the engine is gone")]
    kinds = list(client.responses.create(model="tiny", input="hi", stream=True))
    assert kinds[-1].type == "response.failed"
    assert kinds[-1].response.error is not None
    assert kinds[-1].response.error.message == "the engine is gone"
