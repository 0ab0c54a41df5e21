"""One conversation as a chat and as a response on the real engine: the same text and the same usage."""

import json
from typing import Any

import pytest

from tests.real.conftest import Server

QUESTIONS = ("What is the capital of France?", "Name three colours.", "Say hello in German.")
SYSTEM = "You are a helpful assistant."


def streamed(server: Server, body: dict[str, Any]) -> list[Any]:
    status, _, data = server.post(body | {"stream": True}, "/v1/responses")
    assert status == 200, data
    return [json.loads(frame.partition(b"data: ")[2]) for frame in data.removesuffix(b"\n\n").split(b"\n\n")]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_response_says_what_a_chat_says(server: Server, question: str) -> None:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    bounds = {"temperature": 0, "model": ""}
    chat = server.whole({"messages": messages, "max_tokens": 16, **bounds}, "/v1/chat/completions")
    body = {"instructions": SYSTEM, "input": question, "max_output_tokens": 16, **bounds}
    whole = server.whole(body, "/v1/responses")
    events = streamed(server, body)
    last = events[-1]["response"]
    said = chat["choices"][0]["message"]["content"]
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    texts = [answer["output"][0]["content"][0]["text"] for answer in (whole, last)]
    assert [*texts, deltas] == [said] * 3
    usage = (chat["usage"]["prompt_tokens"], chat["usage"]["completion_tokens"])
    assert [(one["usage"]["input_tokens"], one["usage"]["output_tokens"]) for one in (whole, last)] == [usage] * 2
    word = {"stop": "completed", "length": "incomplete"}[chat["choices"][0]["finish_reason"]]
    assert (whole["status"], last["status"], events[-1]["type"]) == (word, word, f"response.{word}")
