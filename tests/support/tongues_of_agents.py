"""Ask one conversation as a response of OpenAI's and as a message of Anthropic's."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.talks import Json, Talk, Told, read
from tests.support.tongues import GREEDY, Post, asked


def items_in(messages: Sequence[Json]) -> Iterator[Json]:
    """A chat's messages as the items of a response's input."""
    for message in messages:
        match message:
            case {"role": "tool"}:
                yield {
                    "type": "function_call_output",
                    "call_id": message["tool_call_id"],
                    "output": message["content"],
                }
            case {"role": "assistant"}:
                if thought := message.get("reasoning"):
                    content = [{"type": "reasoning_text", "text": thought}]
                    yield {"type": "reasoning", "summary": [], "content": content}
                if text := message.get("content"):
                    yield {"role": "assistant", "content": [{"type": "output_text", "text": text}]}
                for call in message.get("tool_calls", ()):
                    yield {"type": "function_call", "call_id": call["id"], **call["function"]}
            case _:
                yield {**message}


def by_responses(talk: Talk, post: Post, *, is_stream: bool) -> Told:
    """As a response."""
    head, *rest = talk.messages
    has_head = head["role"] == "system"
    body: Json = {"input": [*items_in(rest if has_head else talk.messages)], "max_output_tokens": talk.max_tokens}
    body |= {"model": "", "store": False, **GREEDY}
    body |= {"instructions": head["content"]} if has_head else {}
    body |= {"stop": [*talk.stop]} if talk.stop else {}
    body |= {"tools": [{"type": "function", **tool["function"]} for tool in talk.tools]} if talk.tools else {}
    named = {"type": "function", **talk.choice["function"]} if isinstance(talk.choice, dict) else talk.choice
    body |= {"tool_choice": named} if talk.choice is not None else {}
    body |= {"chat_template_kwargs": {"enable_thinking": talk.thinks}} if talk.thinks is not None else {}
    items = asked(post, body, is_stream=is_stream)
    response = items[-1]["response"] if is_stream else items[0]
    if is_stream:
        assert items[-1]["type"] == f"response.{response['status']}"
        assert _deltas(items) == [_said(item) for item in response["output"]]
    kinds: dict[str, list[Any]] = {"message": [], "reasoning": [], "function_call": []}
    for item in response["output"]:
        kinds[item["type"]].append((item["name"], read(item["arguments"])) if "name" in item else _said(item))
    usage, is_cut = response["usage"], response["status"] == "incomplete"
    assert response["incomplete_details"] == ({"reason": "max_output_tokens"} if is_cut else None)
    return Told(
        text="".join(kinds["message"]),
        thought="".join(kinds["reasoning"]),
        calls=tuple(kinds["function_call"]),
        ends=frozenset({"length"} if is_cut else {"stop", "call", "sequence"}),
        prompt=usage["input_tokens"],
        completion=usage["output_tokens"],
        reasoned=usage["output_tokens_details"]["reasoning_tokens"],
    )


def _said(item: Json) -> str:
    return item["arguments"] if "arguments" in item else "".join(part["text"] for part in item["content"])


def _deltas(events: Sequence[Json]) -> list[str]:
    """The text of each item by its deltas alone."""
    texts: list[str] = []
    for event in events:
        if event["type"] == "response.output_item.added":
            texts.append("")
        elif event["type"].endswith(".delta"):
            texts[event["output_index"]] += event["delta"]
    return texts


def blocks_in(messages: Sequence[Json]) -> list[Json]:
    """A chat's messages as those of Anthropic's Messages."""
    told: list[Json] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            role = "user"
            content = [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content}]
        elif role == "assistant" and message.keys() & {"reasoning", "tool_calls"}:
            thought = message.get("reasoning")
            blocks: list[Json] = [{"type": "thinking", "thinking": thought, "signature": ""}] if thought else []
            blocks += [{"type": "text", "text": content}] if content else []
            for call in message.get("tool_calls", ()):
                given = json.loads(call["function"]["arguments"])
                blocks.append({"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": given})
            content = blocks
        if told and told[-1]["role"] == role == "user" and isinstance(content, list):
            told[-1]["content"] += content
        else:
            told.append({"role": role, "content": content})
    return told


CHOICES = {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
STOP_WORDS = {"end_turn": "stop", "max_tokens": "length", "stop_sequence": "sequence", "tool_use": "call"}


def by_messages(talk: Talk, post: Post, *, is_stream: bool) -> Told:
    """As a message of Anthropic's."""
    head, *rest = talk.messages
    has_head = head["role"] == "system"
    body: Json = {"messages": blocks_in(rest if has_head else talk.messages), "max_tokens": talk.max_tokens, **GREEDY}
    body |= {"model": "", "anthropic_version": "2023-06-01"}
    body |= {"system": head["content"]} if has_head else {}
    body |= {"stop_sequences": [*talk.stop]} if talk.stop else {}
    tools = [
        {
            "name": tool["function"]["name"],
            "input_schema": tool["function"]["parameters"],
            **({"description": tool["function"]["description"]} if "description" in tool["function"] else {}),
        }
        for tool in talk.tools
    ]
    body |= {"tools": tools} if tools else {}
    named = isinstance(talk.choice, dict)
    choice = {"type": "tool", "name": talk.choice["function"]["name"]} if named else CHOICES.get(talk.choice)
    body |= {"tool_choice": choice} if choice is not None else {}
    body |= {"thinking": {"type": "enabled" if talk.thinks else "disabled"}} if talk.thinks is not None else {}
    items = asked(post, body, is_stream=is_stream)
    message = _message(items) if is_stream else items[0]
    kinds: dict[str, list[Any]] = {"text": [], "thinking": [], "tool_use": []}
    for block in message["content"]:
        kinds[block["type"]].append((block["name"], block["input"]) if "name" in block else block[block["type"]])
    usage = message["usage"]
    assert (message["stop_sequence"] in talk.stop) == (message["stop_reason"] == "stop_sequence")
    return Told(
        text="".join(kinds["text"]),
        thought="".join(kinds["thinking"]),
        calls=tuple(kinds["tool_use"]),
        ends=frozenset({STOP_WORDS[message["stop_reason"]]}),
        prompt=usage["input_tokens"] + usage["cache_read_input_tokens"],
        completion=usage["output_tokens"],
        reasoned=usage.get("output_tokens_details", {}).get("thinking_tokens", 0),
    )


def _message(events: Sequence[Json]) -> Json:
    """The message that a stream's events are together."""
    message: Json = {}
    written: dict[int, str] = {}
    for event in events:
        match event:
            case {"type": "message_start"}:
                message = event["message"]
            case {"type": "content_block_start"}:
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case {"type": "content_block_delta", "index": place, "delta": {"partial_json": text}}:
                written[place] = written.get(place, "") + text
            case {"type": "content_block_delta", "index": place, "delta": {"type": kind, **rest}}:
                for name in rest.keys() - {"signature"}:
                    assert kind == f"{name}_delta"
                    message["content"][place][name] += rest[name]
            case {"type": "message_delta"}:
                message |= event["delta"] | {"usage": event["usage"]}
    for place, text in written.items():
        message["content"][place]["input"] = read(text)
    return message
