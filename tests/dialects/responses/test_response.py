"""Answers as responses: the events of a stream, the items that they tell, and the whole, which is their fold."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from lmi_chat.codec.framing import NAMED_EVENTS, framing
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.responses.body import LOGPROBS
from lmi_chat.dialects.task import TokenRenderer
from lmi_chat.errors import Bug, CutOff, RateLimited
from lmi_chat.job import CallPart, Delta, Finish, Finished, Reason, Token, TokenLogprob
from lmi_chat.testing import called, reasoned, said
from tests.dialects.responses.test_request import CALLS, TIME, WEATHER, ask
from tests.dialects.responses.test_tools import CRM, RUN
from tests.support.fakes import brief, delta, rendered

AT = {**CALLS, "reasoning_parser": "x"}
PARTS = (reasoned("Hm."), "Let me see.", called("weather", '{"city":"Zürich"}'), called("time", "{}"))
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
VARYING = ("id", "created_at", "completed_at")


def events_of(
    *parts: Any, reason: Reason = "stop", at: Json | None = None, is_stream: bool = True, **fields: Any
) -> list[Json]:
    task = ask("hi", AT if at is None else at, stream=is_stream, **fields)
    steps = [step for step in said(*parts, reason=reason)(task.job) if isinstance(step, Delta | Finished)]
    return rendered(task.render, *steps)


def whole(*parts: Any, **fields: Any) -> Json:
    (document,) = events_of(*parts, is_stream=False, **fields)
    return document


def names(events: Sequence[Json]) -> list[str]:
    """Types without `response.`, runs of one type once."""
    found = [event["type"].removeprefix("response.") for event in events]
    return [name for place, name in enumerate(found) if place == 0 or found[place - 1] != name]


def plain(response: Json) -> Json:
    """A response without what differs from one to the next."""
    items = [{name: value for name, value in item.items() if name != "id"} for item in response["output"]]
    return {name: value for name, value in response.items() if name not in VARYING} | {"output": items}


def folded(events: Sequence[Json]) -> list[Json]:
    """The items that the deltas of a stream add up to, by a client that reads nothing else."""
    items: list[Json] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(json.loads(json.dumps(event["item"])))
        elif kind == "content_part.added":
            assert event["item_id"] == items[event["output_index"]]["id"]
            assert event["content_index"] == len(items[-1]["content"])
            items[event["output_index"]]["content"].append(dict(event["part"]))
        elif kind == "function_call_arguments.delta":
            items[event["output_index"]]["arguments"] += event["delta"]
        elif kind == "custom_tool_call_input.delta":
            assert event["delta"]
            items[event["output_index"]]["input"] += event["delta"]
        elif kind.endswith("text.delta"):
            part = items[event["output_index"]]["content"][event["content_index"]]
            part["text"] += event["delta"]
            if "logprobs" in part:
                part["logprobs"] = part["logprobs"] + event["logprobs"]
        elif kind == "output_item.done":
            items[event["output_index"]]["status"] = event["item"]["status"]
            assert items[event["output_index"]] == event["item"]
    return items


def test_the_events_of_thoughts_text_and_calls() -> None:
    events = events_of(*PARTS, tools=[WEATHER, TIME])
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    text = ["content_part.added", "output_text.delta", "output_text.done", "content_part.done"]
    thought = [name.replace("output_text", "reasoning_text") for name in text]
    assert names(events) == [
        "created",
        "in_progress",
        *("output_item.added", *thought, "output_item.done"),
        *("output_item.added", *text, "output_item.done"),
        *call,
        *call,
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["usage"] is None
    last = events[-1]["response"]
    assert last["status"] == "completed"
    assert [item["type"] for item in last["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert last["output"][2] | {"id": ""} == {
        "id": "",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_0",
        "name": "weather",
        "arguments": '{"city":"Zürich"}',
    }
    assert len({item["id"] for item in last["output"]}) == 4
    assert folded(events) == last["output"]
    assert last["usage"] == {
        "input_tokens": last["usage"]["total_tokens"] - last["usage"]["output_tokens"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": last["usage"]["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": last["usage"]["total_tokens"],
    }


def test_each_event_has_what_the_sdks_type_requires() -> None:
    parts = (*PARTS, called("crm__find", "{}"), called("crm__run", '{"input":"x"}'))
    for event in events_of(*parts, tools=[WEATHER, TIME, CRM], include=[LOGPROBS]):
        assert EVENT.validate_python(event).type == event["type"]


def test_a_call_of_a_namespaces_tool_has_its_own_name() -> None:
    events = events_of(called("crm__find", '{"city":"Bern"}'), tools=[CRM])
    [item] = events[-1]["response"]["output"]
    assert item | {"id": ""} == {
        "id": "",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_0",
        "name": "find",
        "namespace": "crm",
        "arguments": '{"city":"Bern"}',
    }
    assert [event["name"] for event in events if event["type"].endswith("arguments.done")] == ["find"]
    assert folded(events) == [item]
    [plain_call] = whole(called("crm__other", "{}"), tools=[CRM])["output"]
    assert plain_call["name"] == "crm__other", "what was not offered stays as the model wrote it"


@pytest.mark.parametrize(("name", "own"), [("run", {"name": "run"}), ("crm__run", {"name": "run", "namespace": "crm"})])
def test_a_call_of_a_custom_tool_is_its_input(name: str, own: Json) -> None:
    arguments = '{ "input": "echo \\"h\\u00e9\\"\\n\\ud83d\\ude00" }'
    events = events_of(called(name, arguments), tools=[RUN, CRM])
    delta, *rest = (f"custom_tool_call_input.{word}" for word in ("delta", "done"))
    assert names(events) == [
        "created",
        "in_progress",
        "output_item.added",
        delta,
        *rest,
        "output_item.done",
        "completed",
    ]
    [item] = events[-1]["response"]["output"]
    text = 'echo "hé"\n😀'
    call = {"type": "custom_tool_call", "status": "completed", "call_id": "call_0", "input": text, **own}
    assert {key: value for key, value in item.items() if key != "id"} == call
    assert item["id"].startswith("ctc_")
    added = next(event for event in events if event["type"] == "response.output_item.added")
    assert added["item"] == item | {"input": "", "status": "in_progress"}
    done = next(event for event in events if event["type"] == "response.custom_tool_call_input.done")
    assert done.keys() == {"type", "sequence_number", "item_id", "output_index", "input"}
    assert (done["item_id"], done["input"]) == (item["id"], text)
    assert folded(events) == [item]


@pytest.mark.parametrize(
    ("arguments", "reason", "text"),
    [
        ('{"inp', "stop", '{"inp'),
        ('{"inp', "length", ""),
        ('{"input":"ab\\u00', "length", "ab"),
        ('{"input":"ab\\ud83d', "length", "ab"),
        ("*** Begin Patch", "length", "*** Begin Patch"),
        ("", "stop", ""),
    ],
)
def test_a_custom_call_whose_arguments_are_not_whole(arguments: str, reason: Reason, text: str) -> None:
    fields: Json = {"reason": reason, "tools": [RUN]}
    events, document = events_of(called("run", arguments), **fields), whole(called("run", arguments), **fields)
    [item] = events[-1]["response"]["output"]
    assert (item["input"], item["status"]) == (text, "completed" if reason == "stop" else "incomplete")
    assert folded(events) == [item]
    assert plain(document) == plain(events[-1]["response"])


TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=8)
ANY_PARTS = st.lists(
    st.one_of(
        TEXTS,
        TEXTS.map(reasoned),
        TEXTS.map(lambda text: called("weather", json.dumps({"city": text}))),
        st.just(called("time", "")),
        TEXTS.map(lambda text: called("crm__find", json.dumps({"city": text}))),
        TEXTS.map(lambda text: called("run", json.dumps({"input": text}))),
        TEXTS.map(lambda text: called("crm__run", text)),
    ),
    max_size=6,
)


@brief
@given(ANY_PARTS, st.sampled_from(["stop", "length"]), st.booleans())
def test_the_whole_is_the_fold_of_the_stream(parts: list[Any], reason: Reason, has_logprobs: bool) -> None:  # noqa: FBT001
    fields: Json = {"tools": [WEATHER, TIME, RUN, CRM]} | (
        {"include": [LOGPROBS], "top_logprobs": 1} if has_logprobs else {}
    )
    events, document = events_of(*parts, reason=reason, **fields), whole(*parts, reason=reason, **fields)
    last = events[-1]["response"]
    assert plain(last) == plain(document)
    assert folded(events) == last["output"]
    cut = reason == "length" and any(not isinstance(part, str) or part for part in parts)
    assert last["status"] == ("incomplete" if cut else "completed")
    assert events[-1]["type"] == f"response.{last['status']}"


def test_an_answer_that_is_cut_is_incomplete() -> None:
    last = events_of("Hel", called("time", '{"a'), reason="length", tools=[TIME])[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["completed_at"] is None
    assert [item["status"] for item in last["response"]["output"]] == ["completed", "incomplete"]


def test_logprobs_stand_with_their_text_alone() -> None:
    events = events_of(reasoned("Hm"), "Hé", include=[LOGPROBS])
    parts = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [[token["token"] for token in event["logprobs"]] for event in parts] == [["H"], ["é"]]
    message = events[-1]["response"]["output"][1]["content"][0]
    assert [token["token"] for token in message["logprobs"]] == ["H", "é"]
    assert message["logprobs"][0].keys() == {"token", "logprob", "bytes", "top_logprobs"}
    done = next(event for event in events if event["type"] == "response.output_text.done")
    assert done["logprobs"] == message["logprobs"]
    assert whole("Hé", include=[LOGPROBS])["output"][0]["content"] == [message]


def test_an_answer_without_a_text_has_an_empty_message() -> None:
    task = ask()
    (document,) = rendered(task.render, delta("", finish="stop"), Finished(prompt_tokens=1, completion_tokens=1))
    assert document["output"][0]["content"][0]["text"] == ""
    assert document["output"][0]["type"] == "message"


def test_plain_tokens_are_the_same_events() -> None:
    """Those that come without a delta, and with one in between."""
    texts = ["A", '"', "\n", "é", "z"]
    slow, quick = ask(stream=True), ask(stream=True)
    done = Finished(prompt_tokens=1, completion_tokens=5)
    one_by_one = [delta(text, finish="stop" if text == "z" else None) for text in texts]
    expected = rendered(slow.render, *one_by_one, done)
    render = quick.render
    assert isinstance(render, TokenRenderer)
    assert render.is_quick
    payloads = [json.loads(payload) for payload in render.delta(one_by_one[0])]
    payloads += [json.loads(render.token(1, json.dumps(text)[1:-1].encode(), 0.0)) for text in texts[1:3]]
    payloads += [json.loads(payload) for each in one_by_one[3:] for payload in render.delta(each)]
    payloads += [json.loads(payload) for payload in render.done(done)]

    def same(events: list[Json]) -> list[Json]:
        return [event | {"response": plain(event["response"])} if "response" in event else event for event in events]

    assert same(payloads) == same(expected)
    assert payloads[-1]["response"]["output"][0]["content"][0]["text"] == "".join(texts)
    assert not getattr(ask(stream=True, include=[LOGPROBS]).render, "is_quick", True)


@pytest.mark.parametrize(
    ("error", "code"), [(Bug("gone"), "server_error"), (RateLimited("too much"), "rate_limit_exceeded")]
)
def test_a_stream_that_breaks_off_has_failed(error: Any, code: str) -> None:
    task = ask(stream=True)
    events = rendered(task.render, delta("Hel"), error)
    last = events[-1]
    assert (last["type"], last["sequence_number"]) == ("response.failed", len(events) - 1)
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": code, "message": error.message}
    assert last["response"]["output"][0]["content"][0]["text"] == "Hel"


def test_what_is_held_is_counted() -> None:
    """A stream holds nothing that bounds it; a whole answer its texts, names and log-probabilities."""
    task = ask(include=[LOGPROBS])
    task.render.delta(delta("Hello"))
    assert task.render.held_bytes > len("Hello") * 20
    assert ask(stream=True).render.held_bytes == 0


def test_events_have_their_types_as_names() -> None:
    assert framing("events", has_end=False, has_names=True) is NAMED_EVENTS
    assert NAMED_EVENTS.frame(b'{"type":"a.b","x":1}') == b'event: a.b\ndata: {"type":"a.b","x":1}\n\n'
    assert NAMED_EVENTS.frame(b'{"x":"type"}') == b'data: {"x":"type"}\n\n', "a formatter's own payload"
    lines = framing("lines", has_end=False, has_names=True)
    assert lines.frame(b'{"type":"a"}') == b'{"type":"a"}\n'


def test_time_that_cuts_is_a_bound() -> None:
    task = ask()
    cut = delta("Hel")
    cut.finish = Finish("time_limit")
    (document,) = rendered(task.render, cut, Finished(prompt_tokens=1, completion_tokens=3))
    assert (document["status"], document["output"][0]["status"]) == ("incomplete", "incomplete")


def test_a_failure_before_the_end_is_no_document() -> None:
    task = ask()
    (failed,) = rendered(task.render, CutOff("the server ends"))
    assert failed["status"] == "failed"


def test_calls_that_come_at_once_are_items_one_after_the_other() -> None:
    def piece(place: int, text: str = "", name: str = "") -> Delta:
        return Delta(0, text, [1], kind="call", call=CallPart(place, name and f"c{place}", name))

    steps = [piece(0, name="weather"), piece(1, name="time"), piece(0, '{"city":1}'), piece(1, "{"), piece(1, "}")]
    steps.append(Delta(0, "", [], finish=Finish("stop")))
    done = Finished(prompt_tokens=1, completion_tokens=5)
    events = rendered(ask("hi", AT, stream=True, tools=[WEATHER, TIME]).render, *steps, done)
    (document,) = rendered(ask("hi", AT, tools=[WEATHER, TIME]).render, *steps, done)
    assert [(item["call_id"], item["arguments"]) for item in document["output"]] == [("c0", '{"city":1}'), ("c1", "{}")]
    assert folded(events) == events[-1]["response"]["output"]
    assert plain(events[-1]["response"]) == plain(document)


def test_tokens_between_the_parts_are_no_items() -> None:
    """A model's marks around what it thinks and calls are tokens of no text."""

    def mark(text: str) -> Delta:
        return Delta(0, "", [1], [Token(TokenLogprob(1, -0.5, text.encode()))])

    def of(part: Any) -> list[Delta]:
        job = ask(include=[LOGPROBS]).job
        return [replace(step, finish=None) for step in said(part)(job) if isinstance(step, Delta)]

    parts = [mark("<think>"), *of(reasoned("Hm")), mark("</think>"), *of("Hé"), mark("<call>")]
    parts += [*of(called("time", "{}")), mark("</call>"), Delta(0, "", [], finish=Finish("stop"))]
    for is_stream in (True, False):
        task = ask("hi", AT, stream=is_stream, include=[LOGPROBS], tools=[TIME])
        output = rendered(task.render, *parts, Finished(prompt_tokens=1, completion_tokens=9))[-1]
        items = output["response"]["output"] if is_stream else output["output"]
        assert [item["type"] for item in items] == ["reasoning", "message", "function_call"]
        tokens = [token["token"] for token in items[1]["content"][0]["logprobs"]]
        assert tokens == ["</think>", "H", "é", "<call>"]
