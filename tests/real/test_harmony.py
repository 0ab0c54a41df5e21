"""Chats of gpt-oss: rendered as vLLM's server renders them, token for token, and taken apart as it does."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmi_chat.chat_template import Template
from lmi_chat.codec.json_text import Json
from lmi_chat.engine.vllm import chat, harmony
from tests.support import harmony_folder
from tests.support.fakes import deployment, parse, refusal

pytestmark = pytest.mark.timeout(600)  # the first import of vLLM, and the tokenizer
WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}, "days": {"type": "integer", "default": 1}},
            "required": ["town"],
        },
    },
}
CLOCK: Json = {"type": "function", "function": {"name": "clock"}}
USER: Json = {"role": "user", "content": "H\u00e9llo \U0001f31e <|end|><|start|>"}


def made(name: str, arguments: str, call_id: str) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CALLED: list[Json] = [
    {
        "role": "assistant",
        "content": None,
        "reasoning": "I look.",
        "tool_calls": [made("weather", '{"town": "Gen\u00e8ve"}', "a"), made("clock", "{}", "b")],
    },
    {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "sunny"}]},
    {"role": "tool", "tool_call_id": "b", "content": "noon"},
]
SPOKEN: Json = {"role": "assistant", "content": "It is.", "reasoning": "Hm."}
CHATS: dict[str, Json] = {
    "user": {"messages": [USER]},
    "system": {"messages": [{"role": "system", "content": "Be short."}, USER]},
    "developer": {"messages": [{"role": "developer", "content": "Be short."}, USER]},
    "parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    },
    "system, then developer": {
        "messages": [{"role": "system", "content": "Be short."}, {"role": "developer", "content": "Be kind."}, USER]
    },
    "low effort": {"messages": [USER], "reasoning_effort": "low"},
    "high effort": {"messages": [USER], "reasoning_effort": "high"},
    "tools": {"messages": [USER], "tools": [WEATHER, CLOCK]},
    "system and tools": {"messages": [{"role": "system", "content": "Be short."}, USER], "tools": [WEATHER]},
    "calls and results": {"messages": [USER, *CALLED], "tools": [WEATHER, CLOCK], "reasoning_effort": "medium"},
    "words beside a call": {"messages": [USER, {**CALLED[0], "content": "I will look."}, *CALLED[1:]]},
    "reasoning of the turn before": {"messages": [USER, SPOKEN, USER]},
    "calls, then words, then calls": {"messages": [USER, *CALLED, SPOKEN, USER, *CALLED], "tools": [WEATHER, CLOCK]},
    "reasoning_content": {
        "messages": [USER, {"role": "assistant", "content": "", "reasoning_content": "Hm."}, USER],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harmony_folder.make(tmp_path_factory.mktemp("gpt") / "oss")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def template(tokenizer: Any) -> Template:
    config = SimpleNamespace(hf_config=SimpleNamespace(model_type="gpt_oss"))
    return Template(tokenizer, None, chat.of(SimpleNamespace(model_config=config)))


def of_vllm(body: Json) -> list[int]:
    """The prompt of the same body by vLLM's server."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers.online_renderer import OnlineRenderer

    config: Any = SimpleNamespace(hf_config=SimpleNamespace(model_type="gpt_oss"), model="gpt-oss")
    renderer = OnlineRenderer(
        config,
        SimpleNamespace(tokenizer=None),
        request_logger=None,
        chat_template=None,
        chat_template_content_format="auto",
    )
    _, [prompt] = asyncio.run(renderer.render_chat(ChatCompletionRequest.model_validate(body)))
    return list(prompt["prompt_token_ids"])


def ids_of(template: Template, body: Json) -> list[int]:
    """The prompt of a chat body, by the way of every request."""
    served = deployment(
        template=template, vocabulary_tokens=harmony_folder.VOCABULARY_TOKENS, tool_parser="openai", calls_tools=True
    )
    return parse(body, served).job.prompt_ids


@pytest.mark.parametrize("name", CHATS)
def test_chats_are_rendered_as_vllm_does(template: Template, name: str) -> None:
    assert ids_of(template, CHATS[name]) == of_vllm(CHATS[name])


def test_arguments_may_be_an_object(template: Template) -> None:
    """As some clients keep them."""
    told = made("weather", '{"town": "Gen\u00e8ve"}', "a")
    kept = {**told, "function": {"name": "weather", "arguments": {"town": "Gen\u00e8ve"}}}
    by_text, by_object = (
        ids_of(template, {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, USER]})
        for call in (told, kept)
    )
    assert by_text == by_object


def test_how_a_prompt_ends(template: Template) -> None:
    """Without a head, with one, and inside the last message."""
    whole = template.decode(ids_of(template, {"messages": [USER]}))
    assert whole.endswith("<|end|><|start|>assistant")
    headless = template.decode(ids_of(template, {"messages": [USER], "add_generation_prompt": False}))
    assert headless + "<|start|>assistant" == whole
    begun = {"messages": [USER, {"role": "assistant", "content": "It is"}], "continue_final_message": True}
    assert template.decode(ids_of(template, begun)) == f"{whole}<|channel|>final<|message|>It is"
    served = {"template": template, "vocabulary_tokens": harmony_folder.VOCABULARY_TOKENS}
    error = refusal({"messages": [USER, CALLED[0]], "continue_final_message": True}, "chat", **served)
    assert "needs a text in the last message" in error.message


@pytest.mark.parametrize("effort", ["none", "minimal", "xhigh"])
def test_an_effort_that_harmony_has_not(template: Template, effort: str) -> None:
    served = {"template": template, "vocabulary_tokens": harmony_folder.VOCABULARY_TOKENS}
    error = refusal({"messages": [USER], "reasoning_effort": effort}, "chat", **served)
    assert f"reasoning_effort must be one of low, medium, high, got '{effort}'" in error.message


def test_tools_reach_the_prompt(template: Template) -> None:
    assert template.knows_tools
    assert template.variables == {"reasoning_effort", "enable_thinking"}


@pytest.mark.parametrize("named", [None, 200002, [200002], [200002, 199999, 200012]])
def test_what_ends_an_answer(named: int | list[int] | None) -> None:
    """The end of a call does, whatever the folder names."""
    fields = {} if named is None else {"eos_token_id": named}
    engine = SimpleNamespace(input_processor=SimpleNamespace(generation_config_fields=fields))
    harmony.complete_end_ids(engine)
    given: Any = engine.input_processor.generation_config_fields["eos_token_id"]
    assert {200002, 200012} <= set(given)
    assert len(given) == len(set(given))
    assert (199999 in given) == (named == [200002, 199999, 200012])


def test_the_folders_tokenizer_is_the_encoding(tokenizer: Any) -> None:
    from vllm.entrypoints.openai.parser.harmony_utils import get_encoding

    texts = [
        "H\u00e9llo \U0001f31e 12345 it's\n\n  \u65e5\u672c\u8a9e",
        "def f(x):\n\treturn x",
        "<|start|>a<|message|><|end|>",
    ]
    for text in texts:
        assert tokenizer.encode(text, add_special_tokens=False) == get_encoding().encode(text, allowed_special="all")
