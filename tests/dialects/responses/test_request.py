"""Requests for responses: each field's meaning, and the chat that an input becomes."""

import json
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.responses.body import LOGPROBS
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField, ModelNotFound, NoPrevious, NotFound, PromptTooLong
from lmi_chat.job import Delta, Finished, OutputConstraint, Tool
from lmi_chat.limits import Limits
from lmi_chat.storage.completions import Completions
from lmi_chat.storage.completions_db import StoredCompletion
from lmi_chat.testing import VOCABULARY_TOKENS
from tests.dialects.chat.test_reasoning import template
from tests.support.fakes import SPACE, deployment, parse, rendered
from tests.support.fakes import refusal as refused
from tests.support.scripted import said

SHOWING = "{tools}\n{turns}"
CALLS: dict[str, Any] = {"chat_template": SHOWING, "tool_parser": "hermes"}
SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: Json = {"type": "function", "name": "weather", "description": "It.", "parameters": SCHEMA}
TIME: Json = {"type": "function", "name": "time"}
CALLED: Json = {"type": "function_call", "call_id": "c1", "name": "find", "arguments": "{}"}


def ask(value: object = "hi", at: Json | None = None, **fields: Any) -> ParsedRequest:
    return parse({"input": value, **fields}, deployment(**at or {}), forced="responses")


def refusal(fields: Json, **changes: Any) -> Any:
    return refused({"input": "hi", **fields}, "responses", **changes)


def answer(task: ParsedRequest) -> Json:
    """The whole answer of a task to which "Hello" is said."""
    events = [step for step in said("Hello")(task.job) if isinstance(step, Delta | Finished)]
    document: Json = rendered(task.render, *events)[-1]
    return document


def chat_prompt(messages: list[Json], **fields: Any) -> str:
    return parse({"messages": messages, **fields}, deployment(**CALLS)).job.prompt_text


def test_the_rule_of_input_at_any_door() -> None:
    """A model that generates answers it, one that embeds embeds it; a path insists."""
    assert parse({"input": "hi"}, deployment()).dialect == "responses"
    assert parse({"input": "hi"}, deployment(pooler=SPACE)).dialect == "embedding"
    error = refused({"input": "hi", "messages": []}, "")
    assert "messages and input in one body" in error.message
    with pytest.raises(BadField, match="embeds"):
        parse({"input": "hi"}, deployment(pooler=SPACE), forced="responses")


def test_a_text_and_instructions_are_a_chat() -> None:
    task = ask("hi", CALLS, instructions="Be brief.")
    assert (task.dialect, task.is_stream, task.has_end, task.has_names) == ("responses", False, False, True)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert task.job.prompt_text == chat_prompt(messages)
    shown = answer(task)
    assert (shown["instructions"], shown["store"], shown["status"]) == ("Be brief.", False, "completed")
    assert shown["output"][0]["content"][0]["text"] == "Hello"


VALUES: list[tuple[str, Any, str, Any]] = [
    ("max_output_tokens", 7, "max_tokens", 7),
    ("temperature", 0.5, "temperature", 0.5),
    ("top_p", 0.5, "top_p", 0.5),
    ("top_k", 3, "top_k", 3),
    ("min_p", 0.1, "min_p", 0.1),
    ("presence_penalty", 0.1, "presence_penalty", 0.1),
    ("frequency_penalty", 0.1, "frequency_penalty", 0.1),
    ("repetition_penalty", 1.5, "repetition_penalty", 1.5),
    ("seed", 5, "seed", 5),
    ("stop", ["a"], "stop", ("a",)),
    ("min_tokens", 2, "min_tokens", 2),
    ("ignore_eos", True, "ignore_eos", True),
    ("skip_special_tokens", False, "skip_special_tokens", False),
    ("logit_bias", {"3": 1.0}, "logit_bias", {3: 1.0}),
]


@pytest.mark.parametrize(("name", "value", "member", "expected"), VALUES)
def test_each_field_of_sampling_reaches_the_job(name: str, value: Any, member: str, expected: Any) -> None:
    assert getattr(ask(**{name: value}).job.sampling, member) == expected


def test_token_ids_stand_in_the_vocabulary() -> None:
    assert "vocabulary ends" in refusal({"logit_bias": {str(VOCABULARY_TOKENS): 1}}).message


def test_names_of_the_model() -> None:
    assert ask(model="lmi").jobs
    assert isinstance(refusal({"model": "gpt-4"}), ModelNotFound)


def test_what_describes_the_request_comes_back() -> None:
    fields: Json = {
        "metadata": {"a": "b"},
        "user": "Ann",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "max_tool_calls": 3,
        "max_output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.25,
        "truncation": "disabled",
        "parallel_tool_calls": False,
    }
    task = ask(**fields, service_tier="auto", prompt_cache_retention="24h", client_metadata={"session_id": "1"})
    shown = answer(task)
    assert {name: shown[name] for name in fields} == fields
    assert shown["service_tier"] == "default"
    assert (task.user, task.metadata, task.unknown) == ("Ann", {"a": "b"}, [])
    assert ask(safety_identifier="s").user == "s"


def test_priority_and_salt() -> None:
    job = ask(at={"has_priority": True}, priority=3, service_tier="flex", cache_salt="s").job
    assert (job.priority, job.cache_salt) == (4, "s")
    assert "cache_salt must not hold" in refusal({"cache_salt": "a/b"}).message


def test_an_effort_is_what_the_template_reads_of_it() -> None:
    reads = {"template": template("effort")}
    assert ask(at=reads, reasoning={"effort": "low"}).job.prompt_text == "hi;low"
    task = ask(reasoning={"effort": "low", "summary": "auto", "context": "auto"}, at={"reasoning_parser": "x"})
    assert [text.partition(":")[0] for text in task.unknown] == [
        "reasoning.summary is ignored",
        "reasoning.effort is ignored",
    ]
    assert answer(task)["reasoning"] == {"effort": "low", "summary": None}
    told = ask(reasoning={"generate_summary": "auto"}, at={"reasoning_parser": "x"}).unknown
    assert told == ["reasoning.summary is ignored: the reasoning itself comes back"]
    assert ask(at={**reads, "reasoning_parser": "x"}, chat_template_kwargs={"reasoning_effort": "high"}).unknown == []


def test_thinking_may_be_bounded() -> None:
    assert ask(at={"reasoning_parser": "x"}, thinking_token_budget=5).job.sampling.thinking_token_budget == 5
    assert "thinking_token_budget needs a model" in refusal({"thinking_token_budget": 5}).message


def test_a_schema_is_the_texts_form() -> None:
    form = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
    task = ask(text={"format": form, "verbosity": "low"})
    constraint = task.job.sampling.constraint
    assert constraint == OutputConstraint("json", json.dumps(SCHEMA, separators=(",", ":")), "text.format.schema")
    assert answer(task)["text"] == {"format": form, "verbosity": "low"}
    assert [text.partition(":")[0] for text in task.unknown] == ["text.verbosity is ignored"]
    loose = ask(text={"format": {"type": "json_object"}}).job.sampling.constraint
    assert loose is not None
    assert loose.kind == "json_object"
    assert ask(text={"format": {"type": "text"}}).job.sampling.constraint is None
    forced = ask(at=CALLS, text={"format": form}, tools=[WEATHER], tool_choice="required")
    assert forced.job.sampling.constraint is None, "a call has the form of its own"


def test_logprobs() -> None:
    assert ask(include=[LOGPROBS], top_logprobs=2).job.sampling.logprobs == 2
    assert ask(include=[LOGPROBS]).job.sampling.logprobs == 0
    assert ask(top_logprobs=0).job.sampling.logprobs is None
    task = ask(include=["reasoning.encrypted_content", "web_search_call.results"])
    assert task.unknown == ["include is ignored for reasoning.encrypted_content: reasoning comes back as text"]


def test_streams() -> None:
    assert ask(stream=True, stream_options={"include_obfuscation": False}).is_stream
    assert ask(stream=True, stream_options={"include_obfuscation": True}).unknown == [
        "stream_options.include_obfuscation is ignored: events are not padded"
    ]


@pytest.mark.parametrize(
    ("choice", "kind", "named", "names"),
    [
        (None, "auto", "", ["weather", "time"]),
        ("required", "required", "", ["weather", "time"]),
        ({"type": "function", "name": "time"}, "named", "time", ["weather", "time"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]},
            "required",
            "",
            ["time"],
        ),
    ],
)
def test_tools_reach_the_prompt_and_the_job(choice: Any, kind: str, named: str, names: list[str]) -> None:
    task = ask(at=CALLS, tools=[WEATHER, TIME | {"strict": True}], tool_choice=choice, parallel_tool_calls=False)
    parsing = task.job.parsing
    assert parsing is not None
    known = {
        "weather": Tool(name="weather", description="It.", parameters=SCHEMA),
        "time": Tool(name="time", is_strict=True),
    }
    assert parsing.tools == tuple(known[name] for name in names)
    assert (parsing.choice, parsing.named, parsing.is_parallel) == (kind, named, False)
    tools = json.loads(task.job.prompt_text.partition("\n")[0])
    assert [tool["function"]["name"] for tool in tools] == names
    shown = answer(task)
    assert shown["tool_choice"] == (choice or "auto")
    assert shown["tools"][0] == WEATHER | {"strict": False}
    assert shown["tools"][1] == TIME | {"strict": True, "parameters": None, "description": None}


def test_tools_that_may_not_be_called_are_not_shown() -> None:
    assert ask(at=CALLS, tools=[WEATHER], tool_choice="none").job.parsing is None


def test_a_conversation_is_the_chat_that_says_the_same() -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": '{"city":"Ulm"}'},
        {"type": "function_call", "call_id": "c2", "name": "time", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "Rain"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "Noon"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "x"},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
    ]

    def call(call_id: str, name: str, arguments: str) -> Json:
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "reasoning": "Hm.",
            "content": "Let me see.",
            "tool_calls": [call("c1", "weather", '{"city":"Ulm"}'), call("c2", "time", "{}")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "Noon"},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    task = ask(items, CALLS, tools=[WEATHER, TIME])
    functions = [
        {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}} for tool in (WEATHER, TIME)
    ]
    chat = parse({"messages": messages, "tools": functions}, deployment(**CALLS))
    assert task.unknown == []
    assert task.job.prompt_text == chat.job.prompt_text
    assert task.job.parsing == chat.job.parsing, "what parsers see of the conversation, too"


def test_calls_of_other_kinds_are_shown_as_the_functions_that_the_model_knows() -> None:
    """By their flat names, and a free text as the arguments that it came in; outputs may say whose they are."""
    items = [
        {"role": "user", "content": "Go."},
        {**CALLED, "namespace": "crm", "id": "fc_1", "status": "completed"},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c2", "name": "run", "input": 'echo "é"\n'},
        {"type": "custom_tool_call", "call_id": "c3", "namespace": "crm", "name": "note", "input": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "A", "name": "find", "namespace": "crm"},
        {"type": "custom_tool_call_output", "id": "ctco_1", "call_id": "c2", "output": "B", "name": "run"},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": [{"type": "input_text", "text": "C"}]},
    ]
    calls = [
        ("c1", "crm__find", "{}"),
        ("c2", "run", '{"input":"echo \\"é\\"\\n"}'),
        ("c3", "crm__note", '{"input":""}'),
    ]
    functions = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]
    messages: list[Json] = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": None, "tool_calls": functions},
        *({"role": "tool", "tool_call_id": f"c{place + 1}", "content": text} for place, text in enumerate("ABC")),
    ]
    kept = Kept()
    task = ask(items, {**CALLS, "save": kept.save, "load": kept.load})
    assert task.unknown == []
    assert task.job.prompt_text == chat_prompt(messages)
    first = answer(task)
    second = ask("More.", {**CALLS, "save": kept.save, "load": kept.load}, previous_response_id=first["id"])
    messages += [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "More."}]
    assert second.job.prompt_text == chat_prompt(messages), "kept items say the same"


def test_the_input_takes_no_more_than_its_bounds() -> None:
    limits = Limits(max_messages=2)
    item = {"role": "user", "content": "a"}
    assert "at most 2 items, got 3" in refusal({"input": [item] * 3}, limits=limits).message
    assert "at most 2 messages" in refusal({"input": [item] * 2, "instructions": "x"}, limits=limits).message


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": None}, "input", "must be given"),
        ({"input": []}, "input", "at least 1"),
        ({"input": 3}, "input", "must be a string or an array"),
        ({"input": ["a"]}, "input[0]", "must be an object"),
        ({"input": [{"content": "a"}]}, "input[0].type", "must be one of message"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "not a reference"),
        ({"input": [{"id": "msg_1"}]}, "input[0].type", "not a reference"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type", "web_search_call"),
        ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]}, "input[0].input", "must be a string"),
        ({"input": [{"type": "custom_tool_call", "input": "", "name": "f"}]}, "input[0].call_id", "not empty"),
        ({"input": [{"type": "custom_tool_call_output", "call_id": "c", "output": "x"}]}, "input", "no call before it"),
        ({"input": [{**CALLED, "namespace": 3}]}, "input[0].namespace", "must be a string that is not empty"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role", "must be one of user"),
        ({"input": [{"role": "user"}]}, "input[0].content", "must be a string"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].type",
            "input_file",
        ),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id", "not empty"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments", "string"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input", "has an output for"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output", "must be a string"),
        ({"input": [{"type": "reasoning", "summary": [3]}]}, "input[0].summary[0]", "must be an object"),
        ({"input": [{"type": "reasoning", "summary": "a"}]}, "input[0].summary", "must be an array"),
        ({"input": [{"type": "reasoning", "encrypted_content": "a"}]}, "input", "says something"),
        ({"background": True}, "background", "must be false"),
        ({"conversation": "conv_1"}, "conversation", "must be absent"),
        ({"prompt": {"id": "p"}}, "prompt", "must be absent"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "must be absent"),
        ({"moderation": {"model": "m"}}, "moderation", "must be absent"),
        ({"text": 3}, "text", "must be an object"),
        ({"text": {"format": {"type": "xml"}}}, "text.format", "json_schema"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "JSON Schema"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity", "low, medium, high"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "must be one of"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options", "must be absent without stream"),
        ({"include": "x"}, "include", "must be an array"),
        ({"include": ["x"]}, "include[0]", "must be one of"),
        ({"top_logprobs": 2}, "top_logprobs", "needs include"),
        ({"truncation": "some"}, "truncation", "auto, disabled"),
        ({"max_output_tokens": 0}, "max_output_tokens", "at least 1"),
        ({"tools": 3}, "tools", "must be an array"),
        ({"tools": [3]}, "tools[0]", "must be an object"),
        ({"tools": [{"type": "telepathy"}]}, "tools[0].type", "must be function or custom, outside a namespace also"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "letters"),
        ({"tools": [TIME, TIME]}, "tools[1]", "name of another"),
        ({"tools": [TIME], "tool_choice": "any"}, "tool_choice", "must be one of none"),
        ({"tools": [TIME], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "names no tool"),
        ({"tools": [TIME], "tool_choice": {"type": "web_search"}}, "tool_choice", "no other tools"),
        ({"tools": [TIME], "tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice", "must have mode"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"metadata": {"a": 1}}, "metadata.a", "must be a string"),
    ],
)
def test_what_is_refused(fields: Json, param: str, words: str) -> None:
    body = {"input": "hi", **fields}
    with pytest.raises(BadField) as caught:
        parse(body, deployment(**CALLS), forced="responses")
    assert caught.value.param == param
    assert words in caught.value.message


def test_unknown_keys_are_told_and_refused_where_strict() -> None:
    sent = [{"role": "user", "content": "a", "colour": "red"}]
    assert ask(sent, temprature=1).unknown == [
        "temprature is ignored; did you mean temperature?",
        "input[0].colour is ignored",
    ]
    assert "temprature is not a known key" in refusal({"temprature": 1}, is_strict=True).message


class Kept:
    """A store that is asked in the same thread."""

    def __init__(self) -> None:
        self.all: dict[tuple[str, str], StoredCompletion] = {}

    def save(self, kept: StoredCompletion) -> None:
        self.all[kept.id, kept.owner] = kept

    def load(self, response_id: str, owner: str) -> StoredCompletion:
        try:
            return self.all[response_id, owner]
        except KeyError:
            raise NotFound("none") from None


def test_a_stored_response_is_gone_on_with() -> None:
    """Its instructions are not, and it may be deleted meanwhile: the later ones have all of the conversation."""
    kept = Kept()
    at = {**CALLS, "save": kept.save, "load": kept.load}
    first = answer(ask("one", at, instructions="Be brief."))
    assert first["store"]
    second = answer(ask("two", at, previous_response_id=first["id"]))
    assert second["previous_response_id"] == first["id"]
    kept.all.pop((first["id"], ""))
    third = ask("three", at, previous_response_id=second["id"], store=False)
    said_so_far = [("user", "one"), ("assistant", "Hello"), ("user", "two"), ("assistant", "Hello"), ("user", "three")]
    assert third.job.prompt_text == chat_prompt([{"role": role, "content": text} for role, text in said_so_far])
    assert not answer(third)["store"]
    assert [response_id for response_id, _ in kept.all] == [second["id"]]
    assert {each.kind for each in kept.all.values()} == {"response"}
    with pytest.raises(NoPrevious, match="no response"):
        ask("x", at, previous_response_id=first["id"])


def test_where_none_is_kept() -> None:
    error = refusal({"previous_response_id": "resp_1"})
    assert (error.status, error.code, error.param) == (400, "previous_response_not_found", "previous_response_id")
    assert ask(store=True).unknown == ["store is ignored: option.store names no file"]
    assert ask().unknown == []


def test_a_file_is_asked_in_a_thread(tmp_path: Path) -> None:
    """By the store itself, whose owners are apart."""
    store = Completions(tmp_path / "a.db")
    kept = StoredCompletion(
        id="resp_1", model="tiny", document=b'{"output":[]}', messages=b"[]", kind="response", owner="ann"
    )
    store.save(kept)
    assert store.load("resp_1", "ann").document == kept.document
    for response_id, owner in (("resp_1", ""), ("resp_2", "ann")):
        with pytest.raises(NotFound):
            store.load(response_id, owner)
    store.close()


def test_the_oldest_turns_go_where_there_is_no_room() -> None:
    items = [{"role": "system", "content": "S"}]
    for number in range(8):
        items += [{"role": "user", "content": f"{number}" * 200}, {"role": "assistant", "content": "x"}]
    items.append({"role": "user", "content": "last"})
    with pytest.raises(PromptTooLong):
        ask(items)
    task = ask(items, truncation="auto", max_output_tokens=100)
    text = task.job.prompt_text
    assert len(task.job.prompt_ids) + 100 <= 1024
    assert "S" in text
    assert "last" in text
    assert "0" * 200 not in text
    assert "7" * 200 in text
    dropped = int(task.unknown[0].partition("first ")[2].split()[0])
    shorter = ask([items[0], *items[1 + dropped :]], max_output_tokens=100)
    assert text == shorter.job.prompt_text
    longer = [items[0], *items[1 + dropped - 2 :]]
    with pytest.raises(PromptTooLong):
        ask(longer, max_output_tokens=100, at={"is_strict": True})
    assert ask("hi", truncation="auto").unknown == []


ODD = [[], ["x"], {"a": 1}, 7, True]


@pytest.mark.parametrize("odd", ODD)
def test_types_that_are_no_strings_are_refused(odd: object) -> None:
    assert refusal({"input": [{"type": odd, "role": "user", "content": "a"}]}).status == 400
    assert refusal({"input": [{"role": "user", "content": [{"type": odd, "text": "a"}]}]}).status == 400


def kept_of(items: list[Json], **fields: Any) -> tuple[Json, list[StoredCompletion]]:
    kept: list[StoredCompletion] = []
    return answer(ask(items, {"save": kept.append}, **fields)), kept


def test_what_no_prompt_needs_is_not_kept() -> None:
    junk = [1] * 1000
    text = {"type": "output_text", "text": "b", "annotations": junk, "logprobs": junk}
    items: list[Json] = [
        {"role": "user", "content": "a", "junk": junk},
        {"type": "message", "role": "assistant", "status": {"a": 1}, "content": [text]},
        {"role": "user", "content": "c"},
    ]
    _, [stored] = kept_of(items)
    assert len(stored.messages) < 1000
    assert [item["status"] for item in json.loads(stored.messages)] == ["completed"] * 3


def test_a_conversation_beyond_what_is_kept_is_answered_and_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmi_chat.dialects.responses.stored.MOST_VALUES", 20)
    few, many = [{"role": "user", "content": "a"}], [{"role": "user", "content": "a"}] * 9
    document, kept = kept_of(few)
    assert (document["store"], len(kept)) == (True, 1)
    task = ask(many, {"save": kept.append})
    assert (answer(task)["store"], len(kept)) == (False, 1)
    assert task.unknown[-1].startswith("store is ignored: the conversation has ")


def test_ids_that_repeat_are_told_apart() -> None:
    _, [stored] = kept_of([{"id": "a", "role": "user", "content": "x"}, {"id": "a", "role": "user", "content": "y"}])
    first, second = (item["id"] for item in json.loads(stored.messages))
    assert first == "a"
    assert second != "a"


def test_thoughts_of_one_turn_are_one() -> None:
    thoughts = [{"type": "reasoning", "summary": [{"type": "summary_text", "text": f"{n}"}]} for n in range(4)]
    task = ask([{"role": "user", "content": "a"}, *thoughts, {"role": "assistant", "content": "b"}, *FURTHER])
    same = parse(
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "reasoning": "0\n1\n2\n3", "content": "b"},
                *FURTHER,
            ]
        },
        deployment(),
    )
    assert task.job.prompt_text == same.job.prompt_text


FURTHER = [{"role": "user", "content": "c"}]


def test_a_stream_without_any_text_begins_all_the_same() -> None:
    task = ask(stream=True)
    events = rendered(task.render, *[step for step in said("")(task.job) if isinstance(step, Delta | Finished)])
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
