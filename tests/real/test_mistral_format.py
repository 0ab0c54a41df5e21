"""A model in Mistral AI's own format, from its folder to the bytes of answers; the engine gives each prompt back."""

import json
from collections.abc import Iterator

import pytest

from bench import fake_engine
from lmi_chat.codec.json_text import Json
from tests.real.conftest import Server, end, start
from tests.support import mistral_folder

SAID = "hello w\u00e9rld \U0001f31f"
USER = {"role": "user", "content": SAID}
ASKED: Json = {"messages": [USER], "max_tokens": 40}
PROMPT = f"<s>[INST]{SAID}[/INST]"


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = mistral_folder.model(tmp_path_factory.mktemp("mistral"))
    engine = fake_engine.start(folder)
    words = ("--input", engine.addresses["input_address"], "--output", engine.addresses["output_address"])
    running = start(folder / "log", *words, "--model-id", str(folder), command=("bench.attached", "ours"))
    yield running
    end(running)
    engine.stop()


def test_a_chat_is_answered(mistral: Server) -> None:
    """The same text whole, streamed by the table, and by vLLM's own detokenizer, which a stop string asks for."""
    answer = mistral.whole(ASKED)
    [text] = [choice["message"]["content"] for choice in answer["choices"]]
    count = 3 + len(mistral_folder.encoded(SAID))
    assert answer["usage"] == answer["usage"] | {"prompt_tokens": count, "completion_tokens": 40}
    assert text.startswith(SAID * (40 // count)), "special tokens are not shown"
    [general] = mistral.whole(ASKED | {"stop": ["never seen"]})["choices"]
    deltas = [choice["delta"] for line in mistral.lines(ASKED) for choice in line["choices"]]
    assert text == general["message"]["content"] == "".join(delta.get("content") or "" for delta in deltas)


def test_a_tools_part_of_a_conversation(mistral: Server) -> None:
    call = {"id": "call_0123456789", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "developer", "content": "Be short."},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0123456789", "content": "7"},
    ]
    [reply] = mistral.whole({"inputs": [turns], "parameters": {"max_new_tokens": 1, "details": True}})
    assert reply["details"]["inputs"] == (
        f"<s>[SYSTEM_PROMPT]Be short.[/SYSTEM_PROMPT][INST]{SAID}[/INST]"
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "123456789"}]</s>'
        "[TOOL_RESULTS]123456789[TOOL_CONTENT]7[/TOOL_RESULTS]"
    )


def test_other_ways_in(mistral: Server) -> None:
    first, second = mistral.whole({"inputs": [[USER], "hello"], "parameters": {"max_new_tokens": 4, "details": True}})
    assert first["details"]["inputs"] == PROMPT
    assert [token["text"] for token in first["details"]["tokens"]] == ["", "", "he", "llo"]
    assert second["generated_text"] == "hello", "its tokens are <s>, he, llo"
    assert mistral.whole({"prompt": "hello", "max_tokens": 3})["choices"][0]["text"] == "hello"
    begun: Json = {"messages": [USER, {"role": "assistant", "content": " the"}], "max_tokens": 15}
    [choice] = mistral.whole(begun | {"continue_final_message": True})["choices"]
    assert choice["message"]["content"].startswith(f"{SAID} the")


def test_refusals(mistral: Server) -> None:
    """A chat in the tokenizer's words; a form of the text by the trial with its tokens."""
    status, _, data = mistral.post({"messages": [USER, {"role": "assistant", "content": "It is"}]})
    assert status == 400
    assert "last message is from the assistant" in json.loads(data)["error"]["message"]
    assert mistral.whole(ASKED | {"guided_choice": ["hello", "w\u00e9"]})["choices"]
    status, _, data = mistral.post(ASKED | {"guided_regex": "("})
    assert (status, json.loads(data)["error"]["message"]) == (400, "guided_regex is refused: unclosed group")
    assert "Traceback" not in mistral.log.read_text()
