"""Ask one conversation by each dialect, whole and streamed, and read from each answer the same facts."""

import contextlib
import http.client
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.support.talks import Json, Talk, Told, read

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
GREEDY: Json = {"temperature": 0}


@dataclass(frozen=True)
class Wire:
    """A server, asked with connections of their own."""

    port: int

    def send(self, path: str, body: Json, headers: Mapping[str, str] | None = None) -> bytes:
        """POST; the answer must be a success."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=240)) as connection:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            data = answer.read()
        assert answer.status == 200, (path, body, data)
        return data

    def detokenized(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        text: str = json.loads(self.send("/detokenize", {"tokens": [*ids]}))["prompt"]
        return text


Post = Callable[[Json], bytes]
"""Sends a body by some way in and gives the answer's bytes, of a stream those of its lines or events joined."""


def at(wire: Wire, path: str, route: str = "") -> Post:
    """A path of a server, or the `route` that its Custom-Attributes name."""
    return partial(wire.send, path, headers={ATTRIBUTES: f"trace=1;route={route}"} if route else None)


def by_boto(runtime: Any, route: str = "") -> Post:
    """An unmodified boto3's ways to invoke an endpoint."""

    def post(body: Json) -> bytes:
        given = {"EndpointName": "e", "ContentType": "application/json", "Body": json.dumps(body)}
        given |= {"CustomAttributes": f"route={route}"} if route else {}
        if not body.get("stream"):
            data: bytes = runtime.invoke_endpoint(**given)["Body"].read()
            return data
        reply = runtime.invoke_endpoint_with_response_stream(**given)
        return b"".join(event["PayloadPart"]["Bytes"] for event in reply["Body"])

    return post


def items_of(data: bytes) -> list[Json]:
    """The JSON of a stream of lines, or of events, which end with [DONE] where they have no types."""
    lines = [line.removeprefix(b"data: ") for line in data.splitlines() if line and not line.startswith(b"event: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def asked(post: Post, body: Json, *, is_stream: bool) -> list[Json]:
    """The items of a stream; of a whole answer the one document."""
    if not is_stream:
        return [json.loads(post(body))]
    return items_of(post(body | {"stream": True}))


def word(finish: str, stop: object) -> frozenset[str]:
    """OpenAI's words."""
    if finish == "stop" and isinstance(stop, str):
        return frozenset({"sequence"})
    return frozenset({{"stop": "stop", "length": "length", "tool_calls": "call"}[finish]})


def by_chat(talk: Talk, post: Post, *, is_stream: bool) -> Told:
    """As a chat completion."""
    body: Json = {"messages": [*talk.messages], "max_tokens": talk.max_tokens, "return_token_ids": True} | GREEDY
    body |= {"stop": [*talk.stop]} if talk.stop else {}
    body |= {"tools": [*talk.tools]} if talk.tools else {}
    body |= {"tool_choice": talk.choice} if talk.choice is not None else {}
    body |= {"chat_template_kwargs": {"enable_thinking": talk.thinks}} if talk.thinks is not None else {}
    body |= {"stream_options": {"include_usage": True}} if is_stream else {}
    items = asked(post, body, is_stream=is_stream)
    choices = [item["choices"][0] for item in items if item["choices"]]
    parts = [choice["delta" if is_stream else "message"] for choice in choices]
    calls: list[list[str]] = []
    for part in parts:
        for place, call in enumerate(part.get("tool_calls") or ()):
            if call.get("index", place) == len(calls):
                calls.append([call["function"]["name"], ""])
            calls[call.get("index", place)][1] += call["function"]["arguments"]
    usage = items[-1]["usage"]
    [(finish, stop)] = [(one["finish_reason"], one["stop_reason"]) for one in choices if one["finish_reason"]]
    if isinstance(talk.choice, dict) and finish == "stop":
        finish = "tool_calls"  # OpenAI's word for a call that the request names is stop
    return Told(
        text="".join(part.get("content") or "" for part in parts),
        thought="".join(part.get("reasoning") or "" for part in parts),
        calls=tuple((name, read(arguments)) for name, arguments in calls),
        ends=word(finish, stop),
        prompt=usage["prompt_tokens"],
        completion=usage["completion_tokens"],
        reasoned=usage["completion_tokens_details"]["reasoning_tokens"],
        ids=tuple(token for choice in choices for token in choice["token_ids"]),
        prompt_ids=tuple(choices[0]["prompt_token_ids"]),
    )


def by_completion(talk: Talk, post: Post, prompt: Any, *, is_stream: bool) -> Told:
    """As a completion of the chat's prompt, by its text or by its token ids."""
    body: Json = {"prompt": prompt, "max_tokens": talk.max_tokens, "return_token_ids": True} | GREEDY
    body |= {"add_special_tokens": False} if isinstance(prompt, str) else {}
    body |= {"stop": [*talk.stop]} if talk.stop else {}
    body |= {"stream_options": {"include_usage": True}} if is_stream else {}
    items = asked(post, body, is_stream=is_stream)
    choices = [item["choices"][0] for item in items if item["choices"]]
    usage = items[-1]["usage"]
    [(finish, stop)] = [(one["finish_reason"], one["stop_reason"]) for one in choices if one["finish_reason"]]
    return Told(
        text="".join(choice["text"] for choice in choices),
        thought=None,
        calls=None,
        ends=word(finish, stop),
        prompt=usage["prompt_tokens"],
        completion=usage["completion_tokens"],
        ids=tuple(token for choice in choices for token in choice["token_ids"]),
        prompt_ids=tuple(choices[0]["prompt_token_ids"]),
    )


LMI_WORDS = {"eos_token": "stop", "length": "length", "stop_sequence": "sequence"}


def by_standard(talk: Talk, post: Post, prompt: Any, *, is_stream: bool) -> Told:
    """As `inputs` and `parameters`: the chat's messages, or its prompt."""
    parameters: Json = {"max_new_tokens": talk.max_tokens, "details": True, "do_sample": False}
    parameters |= {"stop": [*talk.stop]} if talk.stop else {}
    items = asked(post, {"inputs": prompt, "parameters": parameters}, is_stream=is_stream)
    details = items[-1]["details"]
    tokens = [item["token"] for item in items] if is_stream else details["tokens"]
    text = items[-1]["generated_text"]
    if is_stream:
        assert "".join(token["text"] for token in tokens) == text
    return Told(
        text=text,
        thought=None,
        calls=None,
        ends=frozenset({LMI_WORDS[details["finish_reason"]]}),
        prompt=details["input_length"] if is_stream else details["usage"]["prompt_tokens"],
        completion=details["generated_tokens"],
        ids=tuple(token["id"] for token in tokens if token["id"] >= 0),
    )
