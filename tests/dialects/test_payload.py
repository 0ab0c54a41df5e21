"""A payload as formatters read it: by key and by attribute."""

import copy
import json
from typing import Any

import pytest

from lmi_chat.dialects.payload import payload

CHAT = {"id": "a", "choices": [{"index": 0, "message": {"role": "assistant", "content": "é"}, "finish_reason": None}]}


def test_keys_are_attributes_and_attributes_are_keys() -> None:
    shown = payload(CHAT)
    assert shown.choices[0].message.content == shown["choices"][0]["message"]["content"] == "é"
    shown.choices[0].message.content = "x"
    shown.more = [1]
    del shown.id
    assert json.loads(json.dumps(shown)) == {
        "choices": [{**CHAT["choices"][0], "message": {"role": "assistant", "content": "x"}}],  # type: ignore[dict-item]
        "more": [1],
    }
    with pytest.raises(AttributeError):
        del shown.id


def test_what_openais_objects_may_lack_is_none_and_all_else_is_no_attribute() -> None:
    chunk = payload({"choices": [{"delta": {}}]})
    delta = chunk.choices[0].delta
    assert (delta.content, delta.tool_calls, chunk.choices[0].finish_reason, chunk.usage) == (None,) * 4
    assert not hasattr(chunk.choices[0], "message")
    assert not hasattr(chunk.choices[0], "text")
    assert not hasattr(payload({"data": []}), "choices")
    with pytest.raises(AttributeError, match="the answer has no 'nothing': it has choices"):
        _ = chunk.nothing


@pytest.mark.parametrize(
    ("answer", "changed"),
    [
        ({"generated_text": "a"}, {"generated_text": "b"}),
        ({"token": {"text": "a"}, "generated_text": None}, {"token": {"text": "b"}, "generated_text": None}),
    ],
)
def test_an_answer_to_inputs_has_its_text_in_a_choice_too(answer: dict[str, Any], changed: dict[str, Any]) -> None:
    shown = payload(answer)
    assert shown.choices[0].text == "a"
    assert shown.choices[0].finish_reason is None
    shown.choices[0].text = "b"
    assert shown == changed
    assert "choices" not in shown
    assert payload({"generated_text": "a", "details": {"finish_reason": "length"}}).choices[0].finish_reason == "length"


def test_pydantics_ways_to_dump_it() -> None:
    shown = payload(CHAT)
    assert type(dumped := shown.model_dump(mode="json")) is dict
    assert type(dumped["choices"][0]["message"]) is dict
    assert dumped == shown.dict() == json.loads(shown.model_dump_json()) == json.loads(shown.json(indent=1)) == CHAT
    assert '{"id":"a","choices":[{"index":0' in shown.model_dump_json()
    assert "finish_reason" not in shown.model_dump(exclude_none=True)["choices"][0]
    assert shown.model_dump(include={"id"}) == shown.model_dump(exclude={"choices"}) == {"id": "a"}


def test_copies_are_like_it() -> None:
    shown = payload(CHAT)
    shallow, deep = shown.model_copy(update={"id": "b"}), shown.model_copy(deep=True)
    also_deep = copy.deepcopy(shown)
    shown.choices[0].message.content = "changed"
    assert (shallow.id, shown.id, shallow.choices[0].message.content) == ("b", "a", "changed")
    assert deep.choices[0].message.content == also_deep.choices[0].message.content == "é"
    assert also_deep.choices[0].message.tool_calls is None


def test_a_piece_of_a_call_may_lack_all_but_its_arguments() -> None:
    more = {"index": 0, "function": {"arguments": "{"}}
    call = payload({"choices": [{"delta": {"tool_calls": [more]}}]}).choices[0].delta.tool_calls[0]
    assert (call.index, call.id, call.type, call.function.name, call.function.arguments) == (0, None, None, None, "{")
    assert payload({"choices": [{"message": {}}]}).choices[0].message.reasoning is None
