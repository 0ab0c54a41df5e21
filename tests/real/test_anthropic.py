"""One conversation through chat and through Anthropic's Messages, greedy: the same text, usage and end."""

from typing import Any

import anthropic
import pytest

from tests.real.conftest import Server

CONVERSATIONS: list[Any] = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "And another one?"},
    ],
]
WORDS = {"stop": "end_turn", "length": "max_tokens"}


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one turn", "three turns"])
@pytest.mark.parametrize("most", [3, 40])
@pytest.mark.parametrize("system", ["", "Answer in one word."])
def test_the_same_by_chat_and_by_messages(server: Server, messages: Any, most: int, system: str) -> None:
    head = [{"role": "system", "content": system}] if system else []
    asked = {"messages": [*head, *messages], "max_tokens": most, "temperature": 0}
    chat = server.whole(asked, "/v1/chat/completions")
    own: Any = {"model": chat["model"], "max_tokens": most, "messages": messages, "extra_body": {"temperature": 0}}
    own |= {"system": system} if system else {}
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key="none", max_retries=0) as client:
        message = client.messages.create(**own, stream=False)
        with client.messages.stream(**own) as stream:
            streamed = stream.get_final_message()
        told: Any = {name: one for name, one in own.items() if name in ("model", "messages", "system")}
        counted = client.messages.count_tokens(**told)
    [choice] = chat["choices"]
    for one in (message, streamed):
        [block] = one.content
        assert isinstance(block, anthropic.types.TextBlock)
        assert block.text == choice["message"]["content"]
        assert one.stop_reason == WORDS[choice["finish_reason"]]
        prompt = one.usage.input_tokens + (one.usage.cache_read_input_tokens or 0)
        assert (prompt, one.usage.output_tokens) == (
            chat["usage"]["prompt_tokens"],
            chat["usage"]["completion_tokens"],
        )
    assert counted.input_tokens == chat["usage"]["prompt_tokens"]
