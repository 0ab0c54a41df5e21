"""Render chats in the harmony format of gpt-oss, by vLLM's own functions, and name the tokens that end its answers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lmi_chat.chat_template import Message

MODEL_TYPE = "gpt_oss"
HEAD_TOKENS = 2  # `<|start|>assistant`, with which a new turn begins


class HarmonyChat:
    """Renders as vLLM's server does; the folder's chat template has no say.

    The conversation's date is today's, or the one in VLLM_SYSTEM_START_DATE.
    """

    variables = frozenset({"reasoning_effort"})

    def __init__(self) -> None:
        """Import what renders, and build the encoding: a Template tries it within a time limit."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam
        from vllm.entrypoints.openai.parser import harmony_utils

        harmony_utils.get_encoding()
        self._vllm: Any = harmony_utils
        self._tool = ChatCompletionToolsParam.model_validate

    def render(
        self,
        messages: list[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        reasoning_effort: str | None = None,
        **_: Any,
    ) -> list[int]:
        """See ChatRenderer.render."""
        vllm = self._vllm
        if reasoning_effort not in (None, *vllm.REASONING_EFFORT):
            known = ", ".join(reversed(vllm.REASONING_EFFORT))
            raise ValueError(f"reasoning_effort must be one of {known}, got {reasoning_effort!r}")
        instructions, rest = vllm.extract_instructions_from_messages([_as_vllm(message) for message in messages])
        told = vllm.build_harmony_preamble(
            instructions=instructions,
            tools=[self._tool(tool) for tool in tools] or None,
            reasoning_effort=reasoning_effort,
        )
        told += vllm.parse_chat_inputs_to_harmony_messages(rest)
        ids: list[int] = vllm.render_for_completion(told)
        if continue_final_message and told[-1].channel != "final":
            raise ValueError("continue_final_message needs a text in the last message, and no calls")
        if continue_final_message:
            return ids[: -HEAD_TOKENS - 1]  # without the last message's end, too
        return ids if add_generation_prompt else ids[:-HEAD_TOKENS]


def is_spoken(model_config: Any) -> bool:
    """Whether the model of a ModelConfig reads and writes harmony."""
    return bool(model_config.hf_config.model_type == MODEL_TYPE)


def complete_end_ids(engine: Any) -> None:
    """Have `<|return|>` and `<|call|>` end an answer, which not every folder's generation_config.json names both."""
    from vllm.entrypoints.openai.parser.harmony_utils import get_encoding

    generation = engine.input_processor.generation_config_fields
    named = generation.get("eos_token_id")
    several = named if isinstance(named, list) else [] if named is None else [named]
    generation["eos_token_id"] = [*several, *sorted({*get_encoding().stop_tokens_for_assistant_actions()} - {*several})]


def _as_vllm(message: Message) -> Message:
    """Write a message as vLLM's requests have it: `reasoning` by that name, the arguments of calls as JSON text."""
    told = {name: value for name, value in message.items() if name != "reasoning_content"}
    if reasoning := message.get("reasoning") or message.get("reasoning_content"):
        told["reasoning"] = reasoning
    if "tool_calls" in message:
        told["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _text(call["function"].get("arguments"))}}
            for call in message["tool_calls"]
        ]
    return told


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
