"""What dialects share in checking a body: the length of a prompt, before and after it is tokenised."""

from typing import Any

import pytest

from lmi_chat.chat_template import Template
from lmi_chat.codec.json_text import Json
from lmi_chat.errors import PromptTooLong
from lmi_chat.testing import END, END_ID
from tests.support.fakes import SPACE, ByteTokenizer, deployment, parse

CJK = "\u6c49" * 9000
FIRST = 6 * 1024


class Counting(ByteTokenizer):
    """Remembers how many characters it was given at once, at most."""

    most = 0

    def encode(self, text: str, **given: Any) -> list[int]:
        self.most = max(self.most, len(text))
        return super().encode(text, **given)


def bodies(text: str) -> dict[str, Json]:
    """A prompt of `text` in each dialect."""
    chat = [{"role": "user", "content": text}]
    return {
        "messages": {"messages": chat, "max_tokens": 1},
        "prompt": {"prompt": text, "max_tokens": 1},
        "prompt[1]": {"prompt": ["a", text], "max_tokens": 1},
        "inputs": {"inputs": text, "parameters": {"max_new_tokens": 1}},
        "inputs[1]": {"inputs": ["a", text], "parameters": {"max_new_tokens": 1}},
        "a chat as inputs": {"inputs": chat, "parameters": {"max_new_tokens": 1}},
        "input": {"input": text},
    }


@pytest.mark.parametrize("path", bodies(""))
def test_a_text_far_beyond_the_context_is_refused_by_its_first_part(path: str) -> None:
    tokenizer = Counting()
    served = deployment(template=Template(tokenizer), pooler=SPACE if path == "input" else None)
    tokenizer.most = 0
    with pytest.raises(
        PromptTooLong, match=r"of which the first 6144 are \d+ tokens: the prompt is too long"
    ) as caught:
        parse(bodies(CJK)[path], served)
    assert caught.value.param == ("inputs" if path == "a chat as inputs" else path)
    assert tokenizer.most == FIRST


@pytest.mark.parametrize("path", bodies(""))
def test_a_long_text_of_few_tokens_is_served(path: str) -> None:
    served = deployment(pooler=SPACE if path == "input" else None)
    job = parse(bodies(END * 900)[path], served).jobs[-1]
    assert job.prompt_ids.count(END_ID) in {900, 901}  # a chat's turn ends with one more


@pytest.mark.parametrize("name", ["messages", "prompt", "inputs"])
def test_a_long_text_of_which_a_part_is_kept_is_tokenised_to_its_end(name: str) -> None:
    body = bodies(CJK[:9000] + "abc")[name]
    if name == "inputs":
        body["parameters"]["truncate"] = 30
    else:
        body["truncate_prompt_tokens"] = 30
    ids = parse(body, deployment()).job.prompt_ids
    assert len(ids) == 30
    assert b"abc" in bytes(token for token in ids if token != END_ID)
