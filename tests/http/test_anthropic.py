"""Anthropic's Messages by every way in, asked by Anthropic's own client as it is."""

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from typing import Any

import anthropic
import jsonschema_rs
import pytest

from lmi_chat.chat_template import Template
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.errors import Error
from lmi_chat.http.access import ApiKeys
from lmi_chat.http.openapi import document
from lmi_chat.job import Delta, Finish, Finished, Job
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.storage.sessions import Sessions
from tests.http.test_app import post
from tests.support.cases import UNSAID
from tests.support.fakes import deployment, parse
from tests.support.scripted import Scripted, Service, Step, called, reasoned, said, serving
from tests.test_chat_template import tokenizer

pytestmark = pytest.mark.processes

ASKED: Any = [{"role": "user", "content": "hi"}]
WEATHER: Any = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PATH = "/v1/messages"
CALLING: Any = {"chat_template": "{tools}{turns}", "tool_parser": "any", "reasoning_parser": "any"}
LEAST: Any = {"max_tokens": 50, "messages": ASKED}


def client(service: Service, key: str = "none") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"http://127.0.0.1:{service.port}", api_key=key, max_retries=0)


@pytest.fixture
def plain() -> Iterator[Service]:
    with serving(Scripted(said("Hello!"))) as service:
        yield service


def talks(job: Job) -> list[Step]:
    """Calls at first, and says what came of it when the result is there."""
    if "22 degrees" in job.prompt_text:
        return [*said("It is warm.")(job)]
    return [*said(reasoned("Hm."), "I look.", called("weather", {"city": "Bern"}))(job)]


def test_a_message(plain: Service) -> None:
    with client(plain) as claude:
        message = claude.messages.create(model="tiny", max_tokens=9, messages=ASKED)
    [block] = message.content
    assert block.type == "text"
    assert (message.id[:4], message.role, block.text, message.stop_reason) == (
        "msg_",
        "assistant",
        "Hello!",
        "end_turn",
    )
    job = plain.engine.jobs[-1]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (len(job.prompt_ids), 6)
    assert job.sampling.max_tokens == 9


def test_a_stream_by_the_clients_helper(plain: Service) -> None:
    with (
        client(plain) as claude,
        claude.messages.stream(model="tiny", max_tokens=9, messages=ASKED) as stream,
    ):
        assert "".join(stream.text_stream) == "Hello!"
        final = stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 6)


def test_the_events_of_a_stream_in_their_order() -> None:
    with serving(Scripted(talks), **CALLING) as service, client(service) as claude:
        events = list(claude.messages.create(model="tiny", max_tokens=50, messages=ASKED, tools=[WEATHER], stream=True))
    kinds = [
        f"{event.delta.type} {event.index}" if event.type == "content_block_delta" else event.type for event in events
    ]
    merged = [kind for place, kind in enumerate(kinds) if kind != kinds[place - 1]]
    assert merged == [
        "message_start",
        "content_block_start",
        "thinking_delta 0",
        "signature_delta 0",
        "content_block_stop",
        "content_block_start",
        "text_delta 1",
        "content_block_stop",
        "content_block_start",
        "input_json_delta 2",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_every_event_has_its_name_and_tokens_of_the_fast_path_too(plain: Service) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", plain.port, timeout=20)) as wire:
        body = json.dumps(LEAST | {"stream": True})
        wire.request("POST", PATH, body, {"content-type": "application/json"})
        text = wire.getresponse().read().decode()
    frames = [frame.split("\n") for frame in text.split("\n\n") if frame]
    for name, data in frames:
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]
    assert [name for name, _ in frames][:4] == [
        f"event: {kind}" for kind in ("message_start", "ping", "content_block_start", "content_block_delta")
    ]
    assert "[DONE]" not in text


def test_the_tool_runner_calls_and_ends() -> None:
    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: which one
        """
        return f"22 degrees in {city}"

    with serving(Scripted(talks), **CALLING) as service, client(service) as claude:
        runner = claude.beta.messages.tool_runner(model="tiny", max_tokens=50, messages=ASKED, tools=[weather])
        final = runner.until_done()
    assert [block.to_dict().get("text") for block in final.content] == ["It is warm."]
    assert "22 degrees in Bern" in service.engine.jobs[-1].prompt_text


def test_no_conversation_is_held_and_the_client_sends_all_of_it() -> None:
    with serving(Scripted(said("Hi"))) as service:
        status, _, answer = post(service, LEAST | {"thread": {"type": "create"}}, path=PATH)
    assert (status, answer["error"]["details"]) == (400, {"error_code": "thread_unsupported_request"})


def test_tokens_are_counted_as_a_message_has_them(plain: Service) -> None:
    with client(plain) as claude:
        before = len(plain.engine.jobs)
        counted = claude.messages.count_tokens(model="tiny", system="Be brief.", messages=ASKED)
        assert len(plain.engine.jobs) == before, "counting asks no engine"
        message = claude.messages.create(model="tiny", system="Be brief.", max_tokens=9, messages=ASKED)
    assert counted.input_tokens == message.usage.input_tokens


def test_more_tokens_than_the_context_has_are_counted(plain: Service) -> None:
    long: Any = [{"role": "user", "content": "a" * 2000}]
    with client(plain) as claude:
        assert claude.messages.count_tokens(model="tiny", messages=long).input_tokens > 2000
        with pytest.raises(anthropic.BadRequestError, match="maximum context length is 1024"):
            claude.messages.create(model="tiny", max_tokens=9, messages=long)
        long[0]["content"] *= 50
        with pytest.raises(anthropic.BadRequestError, match="messages must have at most 4096 tokens to be counted"):
            claude.messages.count_tokens(model="tiny", messages=long)


def test_errors_are_the_clients_exceptions() -> None:
    with serving(api_keys=ApiKeys({"ann": "secret"})) as service:
        with client(service) as claude, pytest.raises(anthropic.AuthenticationError) as refused:
            claude.messages.create(model="tiny", max_tokens=9, messages=ASKED)
        assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
        with client(service, "secret") as claude:
            with pytest.raises(anthropic.NotFoundError, match="not_found_error") as missing:
                claude.messages.create(model="other", max_tokens=9, messages=ASKED)
            assert missing.value.body["request_id"] == missing.value.request_id  # type: ignore[index]
            with pytest.raises(anthropic.BadRequestError, match="max_tokens must be at least 1"):
                claude.messages.create(model="tiny", max_tokens=0, messages=ASKED)
            with pytest.raises(anthropic.APIStatusError, match="request_too_large") as large:
                claude.messages.create(model="tiny", max_tokens=9, messages=[{"role": "user", "content": "a" * 2**21}])
            assert large.value.status_code == 413


def test_a_model_that_is_not_there_yet_is_overloaded() -> None:
    with serving(is_open=False) as service:
        status, _, answer = post(service, LEAST, path=PATH)
    assert (status, answer["error"]["type"]) == (503, "overloaded_error")


def test_an_error_in_mid_stream_is_an_event() -> None:
    def breaks(_: Job) -> list[Step]:
        return [Delta(0, "He", [1]), Delta(0, "y", [2]), Error("it broke")]

    with (
        serving(Scripted(breaks)) as service,
        client(service) as claude,
        pytest.raises(anthropic.APIStatusError, match="api_error"),
    ):
        list(claude.messages.create(model="tiny", max_tokens=9, messages=ASKED, stream=True))


@pytest.mark.parametrize(
    ("finish", "asked", "expected"),
    [
        (Finish("stop"), {}, ("end_turn", None)),
        (Finish("stop", 7), {}, ("end_turn", None)),
        (Finish("length"), {}, ("max_tokens", None)),
        (Finish("stop", "END"), {"stop_sequences": ["END"]}, ("stop_sequence", "END")),
    ],
)
def test_why_it_ended(finish: Finish, asked: Any, expected: Any) -> None:
    def ends(job: Job) -> list[Step]:
        end = Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=1, cached_tokens=3)
        return [Delta(0, "a", [97], finish=finish), end]

    with serving(Scripted(ends)) as service:
        answer = post(service, LEAST | asked, path=PATH)[2]
        assert service.engine.jobs[-1].sampling.stop == tuple(asked.get("stop_sequences", ()))
    assert (answer["stop_reason"], answer["stop_sequence"]) == expected
    usage = answer["usage"]
    assert usage["cache_read_input_tokens"] == 3
    assert usage["input_tokens"] + 3 == len(service.engine.jobs[-1].prompt_ids)


OWN: dict[str, Any] = {
    "by its version": {"anthropic_version": "bedrock-2023-05-31", **LEAST},
    "by its system": {"system": "Be brief.", **LEAST},
    "by a tool": {"tools": [WEATHER], **LEAST},
    "by a block": LEAST
    | {
        "messages": [
            *ASKED,
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""}]},
            {"role": "user", "content": "go on"},
        ]
    },
}


@pytest.mark.parametrize("body", OWN.values(), ids=OWN.keys())
def test_where_any_kind_is_taken_its_own_keys_choose_it(body: Any) -> None:
    with serving(Scripted(said("Hello!")), **CALLING) as service:
        status, _, answer = post(service, body, path="/invocations")
        assert (status, answer.get("type")) == (200, "message")


@pytest.mark.parametrize(
    "body",
    [
        LEAST,
        {"system": "x", "messages": ASKED},
        LEAST | {"stop_sequences": ["a"]},
        LEAST | {"thinking": {"type": "enabled"}},
        LEAST | {"system": "x", "n": 1},
        LEAST | {"system": None, "anthropic_version": None},
    ],
)
def test_what_a_chat_has_too_leaves_it_a_chat(plain: Service, body: Any) -> None:
    assert post(plain, body, path="/invocations")[2]["object"] == "chat.completion"


def test_by_the_attribute_route(plain: Service) -> None:
    headers = {"X-Amzn-SageMaker-Custom-Attributes": "route=/v1/messages"}
    assert post(plain, LEAST, path="/invocations", headers=headers)[2]["type"] == "message"


def test_no_session_holds_it() -> None:
    with serving(policy=PipelineConfig(sessions=Sessions(seconds=60, most=2))) as service:
        headers = {"X-Amzn-SageMaker-Session-Id": "NEW_SESSION"}
        status, _, answer = post(service, LEAST, path=PATH, headers=headers)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert "held in none" in answer["error"]["message"]


SAME: dict[str, tuple[Any, Any]] = {
    "system": (
        {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}], "messages": ASKED},
        {"messages": [{"role": "system", "content": "Be brief."}, *ASKED]},
    ),
    "a billing line that nobody else reads": (
        {
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: 1"},
                {"type": "text", "text": "Be brief."},
            ],
            "messages": ASKED,
        },
        {"messages": [{"role": "system", "content": "Be brief."}, *ASKED]},
    ),
    "turns that follow their like": (
        {"messages": [*ASKED, {"role": "user", "content": [{"type": "text", "text": " there"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": one} for one in ("hi", " there")]}]},
    ),
    "a beginning of the answer": (
        {"messages": [*ASKED, {"role": "assistant", "content": "He"}]},
        {
            "messages": [*ASKED, {"role": "assistant", "content": "He"}],
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
    ),
    "calls and results": (
        {
            "tools": [WEATHER],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "messages": [
                *ASKED,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Bern"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "c1", "content": "none", "is_error": True},
                        {"type": "text", "text": "and?"},
                    ],
                },
            ],
        },
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "weather",
                        "description": "of a city",
                        "parameters": WEATHER["input_schema"],
                    },
                }
            ],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "messages": [
                *ASKED,
                {
                    "role": "assistant",
                    "content": "I look.",
                    "reasoning": "Hm.",
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city":"Bern"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "Error: none"},
                {"role": "user", "content": "and?"},
            ],
        },
    ),
    "sampling": (
        {"messages": ASKED, "temperature": 0.5, "top_k": 3, "top_p": 0.5, "stop_sequences": ["a"]},
        {"messages": ASKED, "temperature": 0.5, "top_k": 3, "top_p": 0.5, "stop": ["a"]},
    ),
    "a budget for thinking": (
        {"messages": ASKED, "thinking": {"type": "enabled", "budget_tokens": 20}},
        {"messages": ASKED, "thinking_token_budget": 20},
    ),
    "documents and what was found": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "document",
                            "title": "Notes",
                            "context": "of May",
                            "source": {"type": "text", "media_type": "text/plain", "data": "Rain."},
                        },
                        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}]}},
                        {"type": "document", "source": {"type": "content", "content": "b"}},
                        {
                            "type": "search_result",
                            "title": "Bern",
                            "source": "https://example.com",
                            "content": [{"type": "text", "text": "Sun."}, {"type": "text", "text": "Wind."}],
                        },
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": text}
                        for text in ("Notes\nof May\nRain.", "a", "b", "Bern\nhttps://example.com\nSun.\nWind.")
                    ],
                }
            ]
        },
    ),
    "a summary of what was said": (
        {
            "messages": [
                {"role": "assistant", "content": [{"type": "compaction", "content": "They met."}]},
                {"role": "assistant", "content": [{"type": "compaction", "content": None}]},
                *ASKED,
            ]
        },
        {"messages": [{"role": "assistant", "content": "They met."}, *ASKED]},
    ),
    "variables of the template": (
        {"messages": ASKED, "thinking": {"type": "disabled"}, "chat_template_kwargs": {"enable_thinking": True}},
        {"messages": ASKED, "chat_template_kwargs": {"enable_thinking": True}},
    ),
    "a form of the text in older words": (
        {"messages": ASKED, "output_format": {"type": "json_schema", "schema": {"type": "object"}}},
        {
            "messages": ASKED,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        },
    ),
    "a form of the text": (
        {"messages": ASKED, "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {
            "messages": ASKED,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        },
    ),
}


@pytest.mark.parametrize(("own", "chat"), SAME.values(), ids=SAME.keys())
def test_the_engine_is_asked_what_a_chat_asks(own: Any, chat: Any) -> None:
    with serving(Scripted(said("Hi")), **CALLING) as service:
        assert post(service, {"max_tokens": 50, **own}, path=PATH)[0] == 200
        assert post(service, {"max_tokens": 50, **chat}, path="/v1/chat/completions")[0] == 200
        first, second = service.engine.jobs[-2:]
    assert (first.prompt_text, first.prompt_ids) == (second.prompt_text, second.prompt_ids)
    assert first.parsing == second.parsing
    ours, theirs = first.sampling, second.sampling
    if ours.constraint is not None and theirs.constraint is not None:
        assert (ours.constraint.kind, ours.constraint.value) == (theirs.constraint.kind, theirs.constraint.value)
    else:
        assert ours == theirs


SEARCH: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}


def changing(*tools: Any, kind: str = "tool_addition") -> Any:
    """A body whose conversation changes its tools."""
    changes = [{"type": kind, "tool": tool} for tool in tools]
    return LEAST | {"messages": [*ASKED, {"role": "system", "content": changes}]}


WRONG: list[tuple[Any, str]] = [
    ({"messages": ASKED}, "max_tokens must be given"),
    ({"max_tokens": 5}, "messages must be an array of messages, got null"),
    (LEAST | {"tools": [{"name": "a"}]}, "tools[0].input_schema must be a JSON Schema (an object), got null"),
    (LEAST | {"tools": [{"type": "teleport_20260801", "name": "a"}]}, "tools[0].type must be custom, no other tools"),
    (LEAST | {"tools": [{"type": "web_search_2025", "name": "a"}]}, "tools[0].type must be custom, no other tools"),
    (
        LEAST | {"tools": [WEATHER, SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}},
        'tool_choice must not name a tool that cannot be called here, got "web_search"',
    ),
    (LEAST | {"tools": [SEARCH], "tool_choice": {"type": "any"}}, "tool_choice needs tools"),
    (
        LEAST | {"output_format": {"type": "json_object"}, "output_config": {"format": {"type": "text"}}},
        "output_format and output_config.format say the same thing with different values",
    ),
    (LEAST | {"compaction": {"type": "enabled"}}, "compaction must be absent: nothing is compacted here"),
    (LEAST | {"thinking": {"type": "adaptive", "display": "loud"}}, "thinking.display must be one of summarized"),
    (LEAST | {"tool_choice": {"type": "tool"}}, "tool_choice.name must be given with type tool"),
    (LEAST | {"tool_choice": {"type": "some"}}, "tool_choice.type must be one of auto, any, tool, none"),
    (LEAST | {"thinking": {"type": "enabled", "budget_tokens": 50}}, "budget_tokens must be below max_tokens = 50"),
    (LEAST | {"thinking": {}}, "thinking.type must be one of enabled"),
    (LEAST | {"messages": [{"role": "tool", "content": ""}]}, "messages[0].role must be one of user, assistant"),
    (
        LEAST | {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
        'must be of type text or content: of other documents, such as PDF, send the text; got "base64"',
    ),
    (
        LEAST | {"messages": [{"role": "user", "content": [{"type": "search_result", "content": 5}]}]},
        "messages[0].content[0].content must be a string or an array of texts, got 5",
    ),
    (
        LEAST | {"messages": [{"role": "user", "content": [{"type": "browser_state"}]}]},
        "messages[0].content[0].type must be one of text, image, document, search_result, tool_result",
    ),
    (
        LEAST | {"messages": [*ASKED, {"role": "system", "content": "a", "clear_at": "noon"}]},
        'messages[1].clear_at must be one of next_user_message, never, got "noon"',
    ),
    (changing({"type": "tool_reference", "name": "x"}), 'content[0].tool.name must be the name of a tool, got "x"'),
    (
        changing({"type": "tool_definition", "definition": {"name": "x"}}),
        "content[0].tool.definition.input_schema must",
    ),
    (changing({"type": "plugin"}), "messages[1].content[0].tool must be an object such as"),
    (changing(None), "messages[1].content[0].tool must be an object such as"),
    (
        LEAST | {"messages": [{"role": "user", "content": [{"type": "tool_addition"}]}]},
        "messages[0].content[0].type must be one of text, image",
    ),
    (
        LEAST | {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]},
        "tool_use_id must be the id of a tool_use block in an earlier message",
    ),
    (
        LEAST | {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "a"}}]}]},
        'messages[0].content[0].type must be text: the model tiny takes no images; got "image"',
    ),
    (
        LEAST | {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
        "messages[0].content[0].source must be an object such as",
    ),
    (LEAST | {"system": 5}, "system must be a string or an array of texts, got 5"),
    (LEAST | {"metadata": 5}, "metadata must be an object, got 5"),
]


@pytest.mark.parametrize(("body", "text"), WRONG, ids=[text[:30] for _, text in WRONG])
def test_what_is_wrong_is_named_by_its_own_path(body: Any, text: str) -> None:
    with serving(**CALLING) as service:
        status, _, answer = post(service, body, path=PATH)
    assert (status, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
    assert text in answer["error"]["message"]


def test_an_unknown_key_is_told(plain: Service) -> None:
    _, headers, _ = post(plain, LEAST | {"weather": {}}, path=PATH)
    assert headers["x-lmi-chat-warning"] == "weather is ignored"


USED: Any = {"type": "tool_use", "id": "c1", "name": "weather", "input": {}}


def resulting(*content: Any, **more: Any) -> Any:
    """A conversation in which a tool gave this."""
    result = {"type": "tool_result", "tool_use_id": "c1", "content": list(content), **more}
    return [*ASKED, {"role": "assistant", "content": [USED]}, {"role": "user", "content": [result]}]


FOUND: Any = [
    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "a"}},
    {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
    {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}},
    {"type": "text", "text": "Sun.", "citations": []},
]
OTHER, ELSEWHERE = "other server's tools", "built in elsewhere, and nothing runs it here"
TAKEN: dict[str, tuple[Any, str | None]] = {
    "marks of a cache": (
        {
            "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "tools": [WEATHER | {"type": "custom", "cache_control": {"type": "ephemeral"}}],
            "cache_control": {"type": "ephemeral"},
        },
        None,
    ),
    "hints of a tool": (
        {
            "tools": [
                WEATHER
                | {"eager_input_streaming": True, "input_examples": [{}], "defer_loading": True}
                | {"allowed_callers": ["direct"], "strict": True}
            ]
        },
        None,
    ),
    "who asks, as an agent tells it": ({"metadata": {"user_id": f"user_{'a' * 64}_account_{'b' * 36}"}}, None),
    "nobody asks": ({"metadata": {"user_id": None}}, None),
    "thinking as the model likes": ({"thinking": {"type": "adaptive", "display": "updates"}}, None),
    "what is cleared": (
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        "context_management is ignored: a conversation is taken as it is sent",
    ),
    "nothing is cleared": ({"context_management": {"edits": []}, "speed": "standard", "container": None}, None),
    "servers of tools": (
        {
            "mcp_servers": [{"type": "url", "url": "https://example.com", "name": "a"}],
            "tools": [{"type": "mcp_toolset", "mcp_server_name": "a"}],
        },
        f"mcp_servers is ignored: no {OTHER} are called here; tools[0] is ignored: mcp_toolset is {ELSEWHERE}",
    ),
    "where code runs": ({"container": {"skills": []}}, "container is ignored: no code is run here"),
    "other models": ({"fallbacks": [{"model": "a"}]}, "fallbacks is ignored: no other model is asked here"),
    "faster": ({"speed": "fast"}, "speed is ignored: there is one speed here"),
    "where": ({"inference_geo": "us"}, "inference_geo is ignored: this server stands where it stands"),
    "why nothing was cached": (
        {"diagnostics": {"previous_message_id": "a"}},
        "diagnostics is ignored: what was cached is told by the usage alone",
    ),
    "who pays": ({"billing_policy": {"bill_to": "self"}}, "billing_policy is ignored: nobody is billed here"),
    "tools that a server runs": (
        {
            "tools": [
                SEARCH,
                WEATHER,
                {"type": "web_fetch_20260318", "name": "web_fetch"},
                {"type": "code_execution_20260521", "name": "code_execution"},
                {"type": "advisor_20260301", "name": "advisor", "model": "a"},
                {"type": "tool_search_tool_bm25", "name": "tool_search_tool_bm25"},
            ]
        },
        "; ".join(
            f"tools[{place}] is ignored: {kind} is {ELSEWHERE}"
            for place, kind in (
                (0, "web_search_20250305"),
                (2, "web_fetch_20260318"),
                (3, "code_execution_20260521"),
                (4, "advisor_20260301"),
                (5, "tool_search_tool_bm25"),
            )
        ),
    ),
    "tools that Anthropic's models know": (
        {
            "tools": [
                {"type": "bash_20250124", "name": "bash"},
                {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
                {"type": "memory_20250818", "name": "memory"},
                {"type": "computer_20251124", "name": "computer", "display_height_px": 9, "display_width_px": 9},
                {"type": "computer_toolset_20260801"},
                WEATHER,
            ],
            "tool_choice": {"type": "any"},
        },
        "; ".join(
            f"tools[{place}] is ignored: the model does not know {kind}; describe it as a custom tool"
            for place, kind in enumerate(
                (
                    *("bash_20250124", "text_editor_20250728", "memory_20250818"),
                    *("computer_20251124", "computer_toolset_20260801"),
                )
            )
        ),
    ),
    "what tools of a server gave": (
        {"messages": [*ASKED, {"role": "assistant", "content": FOUND}, *ASKED]},
        "messages[1].content[0] is ignored, and so are 1 more: server_tool_use is of a tool that another server ran",
    ),
    "a file of a server": (
        {"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}, *ASKED]},
        "messages[0].content[0] is ignored: container_upload is of a tool that another server ran",
    ),
    "a tool that was found": ({"messages": resulting({"type": "tool_reference", "tool_name": "weather"})}, None),
    "a result that was found": (
        {
            "messages": resulting(
                {"type": "search_result", "title": "a", "source": "b", "content": [{"type": "text", "text": "c"}]},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
            )
        },
        None,
    ),
    "a note for one turn": (
        {"messages": [*ASKED, {"role": "system", "content": "a", "clear_at": "next_user_message"}]},
        None,
    ),
}
BETAS: Any = ["context-management-2025-06-27", "interleaved-thinking-2025-05-14"]
NO_TOKENS = ("max_tokens", "metadata", "container", "fallbacks", "inference_geo", "diagnostics")
"""What no tokens are counted of."""


@pytest.mark.parametrize(("asked", "warned"), TAKEN.values(), ids=TAKEN.keys())
def test_what_agents_send_is_taken_and_what_it_cannot_do_is_told(asked: Any, warned: str | None) -> None:
    """By the client's own beta methods, whose path ends with `?beta=true`; whole, streamed, counted and strict."""
    given = LEAST | {"model": "tiny", "betas": BETAS} | asked
    told = []
    for is_strict in (False, True):
        with (
            serving(Scripted(said("Hello!")), is_strict=is_strict, **CALLING) as service,
            client(service) as claude,
        ):
            messages = claude.beta.messages.with_raw_response
            told += [messages.create(**given), messages.create(**given, stream=True)]
            told += [messages.count_tokens(**{name: one for name, one in given.items() if name not in NO_TOKENS})]
            assert all("Hello!" in "".join(_texts(reply)) for reply in told[-3:-1])
    for reply in told:
        if not (reply.http_request.url.path.endswith("count_tokens") and asked.keys() & set(NO_TOKENS)):
            assert reply.headers.get("x-lmi-chat-warning") == warned


def _texts(reply: Any) -> Iterator[str]:
    """The text of an answer, whole or streamed."""
    found = reply.parse()
    if hasattr(found, "content"):
        yield from (block.text for block in found.content)
    else:
        yield from (event.delta.text for event in found if event.type == "content_block_delta")


def _shown(service: Service, body: Any) -> list[str]:
    """The names of the tools that the model may call, which the template shows too."""
    status, _, answer = post(service, body, path=PATH)
    assert status == 200, answer
    job = service.engine.jobs[-1]
    names = [tool.name for tool in job.parsing.tools] if job.parsing else []
    shown = json.loads(job.prompt_text.partition("user\n")[0] or "[]")
    assert [tool["function"]["name"] for tool in shown] == names
    return names


def test_what_cannot_be_called_is_not_shown_and_what_is_described_can() -> None:
    bash = {"type": "bash_20250124", "name": "bash", "input_schema": {"type": "object"}}
    with serving(Scripted(said("Hi")), **CALLING) as service:
        assert _shown(service, LEAST | {"tools": [SEARCH]}) == []
        assert _shown(service, LEAST | {"tools": [SEARCH, WEATHER, bash]}) == ["weather", "bash"]


def test_a_conversation_changes_its_tools() -> None:
    named: Any = {"type": "tool_reference", "name": "weather"}
    other = {"type": "tool_definition", "definition": WEATHER | {"name": "news"}}
    anew = {"type": "tool_definition", "definition": WEATHER | {"description": "anew"}}
    with serving(Scripted(said("Hi")), **CALLING) as service:
        tools = {"tools": [WEATHER | {"defer_loading": True}, SEARCH]}
        assert _shown(service, changing(named, other) | tools) == ["weather", "news"]
        assert _shown(service, changing(named, kind="tool_removal") | tools) == []
        assert _shown(service, changing({**named, "name": "web_search"}) | tools) == ["weather"]
        assert _shown(service, changing({"type": "mcp_toolset_reference", "server_name": "a"}) | tools) == ["weather"]
        assert _shown(service, changing(anew) | tools) == ["weather"]
        assert "anew" in service.engine.jobs[-1].prompt_text
        body = changing(other, named, kind="tool_addition") | tools
        body["messages"].append({"role": "system", "content": [{"type": "tool_removal", "tool": named}]})
        assert _shown(service, body) == ["news"]
        body["messages"].append({"role": "system", "content": [{"type": "tool_addition", "tool": named}]})
        assert _shown(service, body) == ["weather", "news"]
        many = [{**other, "definition": WEATHER | {"name": f"n{number}"}} for number in range(129)]
        status, _, answer = post(service, changing(*many), path=PATH)
    assert (status, answer["error"]["message"]) == (
        400,
        "tools must have at most 128 tools, got 129 with those added",
    )


def test_the_texts_of_a_result_are_lines() -> None:
    texts = [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]
    with serving(Scripted(said("Hi")), **CALLING) as service:
        for messages, expected in (
            (resulting(*texts), "tool\n1\n2<|im_end|>"),
            (resulting(*texts, is_error=True), "tool\nError: 1\n2<|im_end|>"),
            (resulting({"type": "tool_reference", "tool_name": "a"}, *texts), "tool\na\n1\n2<|im_end|>"),
        ):
            assert post(service, LEAST | {"messages": messages}, path=PATH)[0] == 200
            assert expected in service.engine.jobs[-1].prompt_text


NOTED: Any = [
    *ASKED,
    {"role": "system", "content": "Be brief.", "clear_at": "next_user_message"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "go on"},
    {"role": "system", "content": [{"type": "text", "text": "Plan."}, {"type": "text", "text": "Ask."}]},
]
FIRST_ALONE = """{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}
{{ raise_exception('System message must be at the beginning.') }}{% endif %}<{{ m['role'] }}>{{ m['content'] }}
{% endfor %}"""
HEAD_ALONE = """{% for m in messages %}{% if m['role'] != 'system' or loop.first %}<{{ m['role'] }}>{{ m['content'] }}
{% endif %}{% endfor %}"""
ANYWHERE = """{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}
{% endfor %}"""


@pytest.mark.parametrize("source", [FIRST_ALONE, HEAD_ALONE, ANYWHERE])
def test_a_note_of_the_systems_amid_a_conversation_reaches_every_model(source: str) -> None:
    """Where a template refuses it or leaves it out, the user's turn has it; one for a turn that is over is gone."""
    with serving(Scripted(said("Hi")), template=Template(tokenizer(source))) as service:
        status, headers, answer = post(service, LEAST | {"system": "Sys.", "messages": NOTED}, path=PATH)
        assert status == 200, answer
    prompt = service.engine.jobs[-1].prompt_text.split()
    note = ["<system>Plan.", "Ask."] if source == ANYWHERE else ["System:", "Plan.", "Ask."]
    assert prompt == ["<system>Sys.", "<user>hi", "<assistant>Yes?", "<user>go", "on", *note]
    warned = (
        "messages[4].role system stands in the user's turn: the model's chat template takes it at the beginning alone"
    )
    assert headers.get("x-lmi-chat-warning") == (None if source == ANYWHERE else warned)


def test_who_asks() -> None:
    with serving(Scripted(said("Hi"))) as service:
        assert post(service, LEAST | {"metadata": {"user_id": "ann"}}, path=PATH)[0] == 200
        status, _, answer = post(service, LEAST | {"metadata": {"user_id": "a" * 513}}, path=PATH)
    assert (status, answer["error"]["message"]) == (400, "metadata.user_id must have at most 512 characters, got 513")


def test_fields_beyond_anthropics() -> None:
    sampled = {
        "min_p": 0.5,
        "presence_penalty": 1,
        "frequency_penalty": 1,
        "repetition_penalty": 2,
        "seed": 3,
    }
    others = {"cache_salt": "a", "priority": 2, "service_tier": "auto", "anthropic_beta": ["a"]}
    thinking = {"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "low"}}
    choice = {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}}
    with serving(Scripted(said("Hi")), has_priority=True, **CALLING) as service:
        status, headers, answer = post(service, LEAST | sampled | others | thinking | choice, path=PATH)
        assert status == 200, answer
        job = service.engine.jobs[-1]
        assert post(service, LEAST | {"adapters": "french"}, path=PATH)[0] == 404, "LoRA is off"
    assert {name: getattr(job.sampling, name) for name in sampled} == sampled
    assert (job.cache_salt, job.priority) == ("a", 2)
    assert job.parsing is not None
    assert (job.parsing.choice, job.parsing.named, job.parsing.shows_reasoning) == ("named", "weather", False)
    assert "output_config.effort is ignored" in headers["x-lmi-chat-warning"]


def test_bedrocks_body_by_boto3(plain: Service) -> None:
    boto3 = pytest.importorskip("boto3")
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{plain.port}",
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )
    body = json.dumps({"anthropic_version": "bedrock-2023-05-31", **LEAST})
    with closing(runtime):
        reply = runtime.invoke_endpoint(EndpointName="e", ContentType="application/json", Body=body)
        with closing(reply["Body"]) as read:
            assert json.loads(read.read())["content"] == [{"type": "text", "text": "Hello!"}]


@cache
def described(*, is_strict: bool) -> tuple[Deployment, Any]:
    """A deployment, and a validator of what its document says."""
    here = deployment(is_strict=is_strict, **CALLING)
    whole = document(here, has_sessions=False, has_async=False)
    schema = {"$ref": "#/components/schemas/AnthropicRequest", "components": whole["components"]}
    return here, jsonschema_rs.Draft202012Validator(schema)


def agreed(body: Any, *, is_strict: bool) -> bool:
    """Whether a body is taken, as the document says it, but for what no schema says."""
    here, checks = described(is_strict=is_strict)
    is_valid = checks.is_valid(body)
    try:
        parse(body, here, forced="anthropic")
    except Error as error:
        texts = [problem.text for problem in getattr(error, "problems", [])] or [error.message]
        assert not is_valid or all(any(words in text for words in UNSAID) for text in texts), texts
        return False
    assert is_valid, body
    return True


def test_the_document_says_what_is_taken() -> None:
    for is_strict in (False, True):
        for body in (*(one for one, _ in TAKEN.values()), *(one for one, _ in SAME.values()), *OWN.values()):
            assert agreed(LEAST | body, is_strict=is_strict)
        for body, _ in WRONG:
            assert not agreed(body, is_strict=is_strict)


@pytest.mark.parametrize("kind", [["x"], {"a": 1}, 7, None])
def test_a_type_that_is_no_string_is_refused(plain: Service, kind: object) -> None:
    body = {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": kind, "text": "x"}]}]}
    for path in ("/invocations", "/v1/messages", "/v1/messages/count_tokens"):
        assert post(plain, body, path=path)[0] == 400


@pytest.mark.parametrize("content", [[], [{"type": "text", "text": ""}]])
def test_a_conversation_that_says_nothing_is_refused(plain: Service, content: object) -> None:
    body = {"max_tokens": 5, "messages": [{"role": "user", "content": content}]}
    status, _, answer = post(plain, body, path="/v1/messages")
    assert (status, answer["error"]["message"]) == (400, "messages must have a message that says something")


def test_turns_of_one_side_are_one_message(plain: Service) -> None:
    said_twice = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]
    once = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    counted = [
        post(plain, {"messages": messages}, path="/v1/messages/count_tokens")[2]["input_tokens"]
        for messages in (said_twice, once)
    ]
    assert counted[0] == counted[1]


def test_an_endpoints_refusal_has_the_shape_of_its_route() -> None:
    with serving(api_keys=ApiKeys({"ada": "key"})) as service:
        status, _, answer = post(service, LEAST, path="/endpoints/e/openai/v1/messages")
        assert (status, answer["type"], answer["error"]["type"]) == (401, "error", "authentication_error")
