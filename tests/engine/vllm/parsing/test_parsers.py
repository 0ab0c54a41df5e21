"""Whether a prompt leaves reasoning open: what stands after its last message says it."""

from types import SimpleNamespace
from typing import Any

import pytest

from lmi_chat.engine.vllm.parsing.parsers import Parsing, _thinking
from lmi_chat.job import Job, ParsingParams

MARKS = (("<think>",), ("</think>",))


class Prompts(Parsing):
    """No parsers: prompts alone are looked at."""

    def __init__(self) -> None:
        self.tokenizer: Any = SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)))


def opened(prompt: str, *messages: dict[str, Any], ids: str = "") -> tuple[str, ...] | None:
    params = ParsingParams(messages=messages)
    job = Job(id="j", prompt_ids=[ord(one) for one in ids], prompt_text=prompt, parsing=params)
    return Prompts().opened(job, MARKS)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("<|assistant|>", None),
        ("<|assistant|><think>\n", ("<think>",)),
        ("<|assistant|><think>\n\n</think>\n\n", ()),
        ("<|assistant|></think>", ()),
        ("<|assistant|><think>So far", ("<think>", "So far")),
    ],
)
def test_the_generation_prompt_says_whether_the_answer_reasons(end: str, said: tuple[str, ...] | None) -> None:
    user = {"role": "user", "content": "What is <think>?"}
    assert opened(f"<|user|>What is <think>?{end}", user) == said
    before = {"role": "assistant", "content": "<think>a</think>b"}
    assert opened(f"<think>a</think>b<|user|>What is <think>?{end}", before, user) == said


def test_an_assistants_message_that_is_continued_counts() -> None:
    begun = {"role": "assistant", "content": "<think>First,"}
    assert opened("<|user|>a<|assistant|><think>First,", {"role": "user", "content": "a"}, begun) == (
        "<think>",
        "First,",
    )


def test_a_last_message_that_is_not_found_leaves_the_prompts_end() -> None:
    image = {"role": "user", "content": [{"type": "image_url"}]}
    assert opened("<think>" + "x" * 300, image) is None
    assert opened("x" * 300 + "<think>\n", image) == ("<think>",)
    assert opened("", image, ids="hm<think>") == ("<think>",)


@pytest.mark.parametrize(("effort", "said"), [(None, "high"), ("none", "high"), ("low", "low")])
def test_parsers_are_told_that_the_model_reasons(effort: str | None, said: str) -> None:
    variables = _thinking({"reasoning_effort": effort, "enable_thinking": False, "other": 1})
    assert variables["reasoning_effort"] == said
    assert variables["enable_thinking"]
    assert variables["other"] == 1
