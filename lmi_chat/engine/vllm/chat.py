"""Render chats by vLLM's code where it takes a template's place: Mistral's tokenizers, DeepSeek's and others."""

import copy
import logging
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from lmi_chat.chat_template import ChatRenderer, Message, joined
from lmi_chat.engine.vllm import harmony

MISTRAL = "mistral"
NO_VARIABLES = frozenset[str]()
DEEPSEEK = frozenset({"thinking", "enable_thinking"})
EFFORT = frozenset({"reasoning_effort"})
VARIABLES: Mapping[str, frozenset[str]] = {
    "deepseek_v32": DEEPSEEK,
    "deepseek_v4": DEEPSEEK | EFFORT | {"drop_thinking"},
    "deepseek_v41": DEEPSEEK | EFFORT | {"drop_thinking"},
    "inkling": EFFORT,
    "kimi_k3": frozenset({"thinking"}) | EFFORT,
    "cohere": EFFORT | {"reasoning_type", "safety_mode", "citation_quality", "grounding"},
}
"""What a renderer's code reads of a request's variables, by the tokenizer's mode."""
EFFORT_SINCE = 15  # Mistral's tokenizers of earlier versions write no effort


class OwnChat:
    """Renders by one of vLLM's renderers. It reads messages as clients send them."""

    def __init__(self, renderer: Any, mode: str) -> None:
        """`renderer` of the tokenizer's `mode`."""
        self._renderer, self._mode = renderer, mode
        self.variables = VARIABLES.get(mode, NO_VARIABLES)
        if mode == MISTRAL and renderer.tokenizer.version >= EFFORT_SINCE:
            self.variables = EFFORT

    def render(
        self,
        messages: list[Message],
        *,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> str | list[int]:
        """See ChatRenderer.render."""
        from vllm.renderers.params import ChatParams

        given, shown = copy.deepcopy(messages), copy.deepcopy(list(tools))  # vLLM writes into them
        if self._mode == MISTRAL:
            _shorten_ids(given)
            shown = [_with_parameters(tool) for tool in shown]
        kwargs |= {"continue_final_message": continue_final_message, "tokenize": self._mode == MISTRAL}
        kwargs["tools"] = shown or None
        _, prompt = self._renderer.render_messages(given, ChatParams(chat_template_kwargs=kwargs))
        ids = prompt.get("prompt_token_ids")
        if ids is not None:
            return list(ids)
        text = str(prompt["prompt"])
        return _cut_after_last(text, given[-1]) if continue_final_message else text


def of(engine: Any) -> ChatRenderer | None:
    """Return what renders the chats of an AsyncLLM; None where a Jinja template does."""
    if harmony.is_spoken(engine.model_config):
        return harmony.HarmonyChat()
    from vllm.renderers.hf import HfRenderer
    from vllm.tokenizers.registry import tokenizer_args_from_config

    renderer = engine.renderer
    if isinstance(renderer, HfRenderer) or renderer.tokenizer is None:
        return None
    mode, *_ = tokenizer_args_from_config(engine.model_config)
    if mode == MISTRAL:  # it logs a traceback for each chat that it refuses
        logging.getLogger(f"vllm.renderers.{MISTRAL}").setLevel(logging.CRITICAL)
    return OwnChat(renderer, mode)


def _shorten_ids(messages: list[Message]) -> None:
    """Shorten the ids of tool calls to the nine characters that Mistral's tokenizers take, as vLLM's server does."""
    from vllm.tokenizers.mistral import truncate_tool_call_ids

    truncate_tool_call_ids(SimpleNamespace(messages=messages))


def _with_parameters(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Say that a function takes nothing where its parameters are left out: Mistral's tokenizers want them said."""
    return {**tool, "function": {"parameters": {"type": "object", "properties": {}}, **tool["function"]}}


def _cut_after_last(prompt: str, message: Message) -> str:
    """End a prompt inside its last message, so that the model goes on with it. Raises ValueError."""
    content = message.get("content") or ""
    text = (joined(content) if isinstance(content, list) else content).strip()
    place = prompt.rfind(text)
    if place < 0 or not text:
        raise ValueError("continue_final_message needs a text in the last message that stands in the prompt as it is")
    return prompt[: place + len(text)]
