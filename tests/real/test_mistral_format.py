"""A model in Mistral AI's own format, end to end on the real engine: tiny, with random weights."""

import json
from collections.abc import Iterator

import pytest

from lmi_chat.codec.json_text import Json
from tests.real.conftest import Server, end, start
from tests.support import mistral_folder

USER = {"role": "user", "content": "hello w\u00e9rld \U0001f31f"}
ASKED: Json = {"messages": [USER], "max_tokens": 40, "temperature": 0}


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = mistral_folder.model(tmp_path_factory.mktemp("mistral"))
    running = start(folder / "log", "--model-id", str(folder), "--max-num-seqs", "4")
    yield running
    end(running)


def test_a_chat_is_answered(mistral: Server) -> None:
    """The same text whole, streamed by the table, and by vLLM's own detokenizer, which a stop string asks for."""
    texts = set()
    for seed in range(4):
        asked = ASKED | {"temperature": 1.0, "seed": seed, "ignore_eos": True}
        whole = mistral.whole(asked)
        assert whole["usage"]["prompt_tokens"] == 3 + len(mistral_folder.encoded(USER["content"]))
        text = whole["choices"][0]["message"]["content"]
        general = mistral.whole(asked | {"stop": ["never seen"]})["choices"][0]["message"]["content"]
        deltas = [choice["delta"] for line in mistral.lines(asked) for choice in line["choices"]]
        assert text == general == "".join(delta.get("content") or "" for delta in deltas)
        texts.add(text)
    assert len(texts) == 4


def test_the_tokens_of_an_answer_are_its_bytes(mistral: Server) -> None:
    [choice] = mistral.whole(ASKED | {"logprobs": True, "top_logprobs": 2})["choices"]
    data = b"".join(bytes(token["bytes"]) for token in choice["logprobs"]["content"])
    assert data.decode("utf-8", "replace").startswith(choice["message"]["content"])


def test_a_form_of_the_text_is_kept(mistral: Server) -> None:
    [choice] = mistral.whole(ASKED | {"guided_choice": ["hello world", "w\u00e9"]})["choices"]
    assert choice["message"]["content"] in {"hello world", "w\u00e9"}


def test_other_ways_in(mistral: Server) -> None:
    [first, second] = mistral.whole({"inputs": [[USER], "hello"], "parameters": {"max_new_tokens": 4, "details": True}})
    assert first["details"]["inputs"] == f"<s>[INST]{USER['content']}[/INST]"
    assert second["details"]["generated_tokens"] == 4
    assert mistral.whole({"prompt": "hello", "max_tokens": 4})["usage"]["completion_tokens"] == 4
    begun = {"messages": [USER, {"role": "assistant", "content": "It is"}], "max_tokens": 4}
    assert mistral.whole(begun | {"continue_final_message": True})["usage"]["completion_tokens"] == 4
    status, _, data = mistral.post(begun)
    assert status == 400
    assert "last message is from the assistant" in json.loads(data)["error"]["message"]
    assert "Traceback" not in mistral.log.read_text()
