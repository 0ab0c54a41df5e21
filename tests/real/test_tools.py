"""Tools and reasoning on the real engine, whose model is made to say what each test wants (tests/support/parrot.py)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from tests.real.conftest import Server
from tests.real.test_boto import example
from tests.support.parrot import PARROT

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["town"],
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


WARM = call("weather", '{"town": "Genève 🌞", "days": 2}')
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("It is warm.", {"content": "It is warm."}),
    "one call": (WARM, {"calls": [("weather", {"town": "Genève 🌞", "days": 2})]}),
    "two in parallel": (
        f"{WARM}\n{call('clock', '{}')}",
        {"calls": [("weather", {"town": "Genève 🌞", "days": 2}), ("clock", {})]},
    ),
    "words, then a call": (f"Let me look.\n{WARM}", {"content": "Let me look.", "calls": 1}),
    "reasoning, then words": ("<think>\nHm, é.\n</think>\n\nIt is.", {"reasoning": "Hm, é.", "content": "It is."}),
    "reasoning, then a call": (f"<think>\nI look.\n</think>\n\n{WARM}", {"reasoning": "I look.", "calls": 1}),
}


def asked(text: str, **more: Any) -> dict[str, Any]:
    chat = [{"role": "user", "content": f"{PARROT}{text}"}]
    return {"messages": chat, "temperature": 0, "max_tokens": 300, "tools": [WEATHER, CLOCK], **more}


def streamed(server: Server, body: dict[str, Any], path: str = "/invocations") -> tuple[dict[str, Any], str]:
    """The message that a stream's deltas are together, and why it ended."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}
    reason = ""
    for line in server.lines(body, path):
        for choice in line["choices"]:
            delta, reason = choice["delta"], choice["finish_reason"] or reason
            message["content"] += delta.get("content") or ""
            message["reasoning"] += delta.get("reasoning") or ""
            assert (delta.get("reasoning") or "") == (delta.get("reasoning_content") or "")
            for part in delta.get("tool_calls") or ():
                if part["index"] == len(message["calls"]):
                    assert part["id"]
                    assert part["type"] == "function"
                    message["calls"].append([part["function"]["name"], ""])
                message["calls"][part["index"]][1] += part["function"].get("arguments") or ""
    return message, reason


def whole(server: Server, body: dict[str, Any], path: str = "/invocations") -> tuple[dict[str, Any], str]:
    choice = server.whole(body, path)["choices"][0]
    said = choice["message"]
    assert said.get("reasoning") == said.get("reasoning_content")
    calls = [[one["function"]["name"], one["function"]["arguments"]] for one in said.get("tool_calls") or ()]
    message = {"content": said["content"] or "", "reasoning": said.get("reasoning") or "", "calls": calls}
    return message, choice["finish_reason"]


@pytest.mark.parametrize("name", CASES)
def test_streamed_is_whole(parrot: Server, name: str) -> None:
    text, expected = CASES[name]
    message, reason = whole(parrot, asked(text))
    assert (message, reason) == streamed(parrot, asked(text))
    assert message["content"].strip() == expected.get("content", "")
    assert message["reasoning"].strip() == expected.get("reasoning", "")
    calls = [(called, json.loads(arguments)) for called, arguments in message["calls"]]
    if expected.get("calls") == 1:
        assert calls == [("weather", {"town": "Genève 🌞", "days": 2})]
    else:
        assert calls == expected.get("calls", [])
    assert reason == ("tool_calls" if calls else "stop")


def test_none_required_and_named(parrot: Server) -> None:
    """What may not be called stays text; what must be called is called, whatever the model would say by itself."""
    message, reason = whole(parrot, asked(WARM, tool_choice="none"))
    assert (message["content"], message["calls"], reason) == (WARM, [], "stop")
    free = {"messages": [{"role": "user", "content": "Hi"}], "tools": [WEATHER, CLOCK], "max_tokens": 200, "seed": 1}
    for choice, names, reason in (
        ("required", {"weather", "clock"}, "tool_calls"),
        ({"type": "function", "function": {"name": "weather"}}, {"weather"}, "stop"),
    ):
        body = free | {"tool_choice": choice, "chat_template_kwargs": {"enable_thinking": False}, "temperature": 0}
        message, ended = whole(parrot, body)
        assert (message, ended) == streamed(parrot, body)
        assert message["calls"], message
        assert {name for name, _ in message["calls"]} <= names
        if ended != "length":
            assert ended == reason
            assert all(isinstance(json.loads(arguments), dict) for _, arguments in message["calls"])


def test_a_call_that_is_cut_does_not_look_complete(parrot: Server) -> None:
    body = asked(WARM, max_tokens=20)
    message, reason = whole(parrot, body)
    assert (message, reason) == streamed(parrot, body)
    assert reason == "length"
    for _, arguments in message["calls"]:
        with pytest.raises(ValueError, match=r"\w"):
            json.loads(arguments)


def test_reasoning_is_counted_and_may_be_hidden(parrot: Server) -> None:
    text = "<think>\nHm, é.\n</think>\n\nIt is."
    body = asked(text, tools=None)
    document = parrot.whole(body)
    reasoning = document["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 2 <= reasoning < document["usage"]["completion_tokens"] - 4
    *_, last = parrot.lines(body | {"stream_options": {"include_usage": True}})
    assert last["usage"] == document["usage"]
    hidden, _ = whole(parrot, body | {"include_reasoning": False})
    assert (hidden["reasoning"], hidden["content"].strip()) == ("", "It is.")
    assert streamed(parrot, body | {"include_reasoning": False})[0] == hidden


def test_an_answer_that_never_thinks_is_content(parrot: Server) -> None:
    message, _ = whole(parrot, asked("I do not think.", tools=None))
    assert (message["content"], message["reasoning"]) == ("I do not think.", "")


def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)


class Weather(pydantic.BaseModel):
    """The weather of a town."""

    town: str
    days: int


def test_openai_calls_a_tool_and_takes_its_result(parrot: Server) -> None:
    """Two turns, as every agent does them."""
    told: list[Any] = [{"role": "user", "content": f"{PARROT}{WARM}"}]
    first = client(parrot).chat.completions.create(model="thinker", messages=told, tools=[WEATHER, CLOCK])  # type: ignore[list-item]
    made = (first.choices[0].message.tool_calls or [])[0]
    assert first.choices[0].finish_reason == "tool_calls"
    told += [
        first.choices[0].message,
        {"role": "tool", "tool_call_id": made.id, "content": f"sunny {PARROT}Sunny it is."},
    ]
    second = client(parrot).chat.completions.create(model="thinker", messages=told, tools=[WEATHER, CLOCK])  # type: ignore[list-item]
    assert second.choices[0].message.content is not None
    assert second.choices[0].message.content.startswith("Sunny it is.")


def test_openai_parses_and_streams_a_tool_of_pydantic(parrot: Server) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    told: list[Any] = [{"role": "user", "content": f"{PARROT}{WARM}"}]
    parsed = client(parrot).chat.completions.parse(model="thinker", messages=told, tools=[tool])
    made = (parsed.choices[0].message.tool_calls or [])[0]
    assert made.function.parsed_arguments == Weather(town="Genève 🌞", days=2)
    with client(parrot).chat.completions.stream(model="thinker", messages=told, tools=[tool]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    made = (final.choices[0].message.tool_calls or [])[0]
    assert made.function.parsed_arguments == Weather(town="Genève 🌞", days=2)


def test_a_format_beside_tools(parrot: Server) -> None:
    """With tools auto, an answer is a call or fits the format; it begins after the thinking."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [WEATHER],
        "response_format": form,
    }
    body |= {"max_tokens": 200, "temperature": 0, "chat_template_kwargs": {"enable_thinking": False}}
    message, reason = whole(parrot, body)
    assert (message, reason) == streamed(parrot, body)
    if message["calls"]:
        assert reason in {"tool_calls", "length"}
    elif reason == "stop":
        assert isinstance(json.loads(message["content"])["ok"], bool)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_litellm_langchain_and_boto3_call_a_tool(parrot: Server, tmp_path: Path) -> None:
    """They want older versions of what is installed here, so that they get a folder of their own."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--target", str(tmp_path)]
    subprocess.run([*install, "litellm", "langchain-openai", "boto3"], check=True, timeout=600)
    url, found = (
        f"http://127.0.0.1:{parrot.port}",
        {"PYTHONPATH": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    said = example("tools_client.py", "--url", url, "--model", "thinker", "--say", f"{PARROT}{WARM}", **found)
    print(*said, sep="\n")
    clients = ("litellm", "litellm, streamed", "langchain", "langchain, streamed", "boto3, streamed")
    assert said == [f'{one}: weather {{"town": "Genève 🌞", "days": 2}}' for one in clients]


def test_a_format_begins_after_the_reasoning(parrot: Server) -> None:
    """The engine gives up an answer that breaks its form: had that begun with the first token, nothing would come."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    body = asked('<think>\nHm.\n</think>{"ok": true}', tools=None, response_format=form)
    message, reason = whole(parrot, body)
    assert (message, reason) == streamed(parrot, body)
    assert (message["content"], message["reasoning"].strip(), reason) == ('{"ok": true}', "Hm.", "stop")
