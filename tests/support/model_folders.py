"""Small model folders: whole and broken ones for what is checked before a start, one that thinks, two to share."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from lmi_chat.server import default_model

TENSORS: Mapping[str, tuple[str, list[int]]] = {"embed.weight": ("F32", [4, 2]), "head.weight": ("BF16", [2, 4])}
# of one word: the library writes several in any order
TOKENIZER = Tokenizer(WordLevel({"a": 0}, unk_token="a")).to_str().encode()
BITS = {"F32": 32, "BF16": 16, "F4": 4}
MARKS = {
    "<jupyter_start>": "<think>",
    "<jupyter_text>": "</think>",
    "<jupyter_code>": "<tool_call>",
    "<jupyter_output>": "</tool_call>",
}
"""Tokens that the default model's tokenizer reserves, and what they are named for thinking and for calls of tools."""
THINKING_TEMPLATE = """\
{%- macro begin(role) -%}{{ "<|im_start|>" + role + "\\n" }}{%- endmacro -%}
{%- macro end() -%}{{ "<|im_end|>\\n" }}{%- endmacro -%}
{%- set system = messages[0].content if messages[0].role == "system" else "" -%}
{%- if tools or system -%}
    {{- begin("system") + system -}}
    {%- if tools -%}
        {{- ("\\n\\n" if system else "") + "You may call these functions:\\n<tools>" -}}
        {%- for tool in tools %}{{ "\\n" + tool | tojson }}{% endfor -%}
        {{- "\\n</tools>\\nAnswer with one object for each call:\\n<tool_call>\\n" -}}
        {{- '{"name": <name>, "arguments": <arguments>}' + "\\n</tool_call>" -}}
    {%- endif -%}
    {{- end() -}}
{%- endif -%}
{%- for message in messages -%}
    {%- set text = message.content or "" -%}
    {%- if message.role == "assistant" -%}
        {{- begin("assistant") -}}
        {%- if message.reasoning_content -%}
            {{- "<think>\\n" + message.reasoning_content + "\\n</think>\\n\\n" -}}
        {%- endif -%}
        {{- text -}}
        {%- for call in message.tool_calls or [] -%}
            {%- set given = call.function.arguments -%}
            {{- ("\\n" if text or not loop.first else "") + '<tool_call>\\n{"name": "' + call.function.name -}}
            {{- '", "arguments": ' + (given if given is string else given | tojson) + "}\\n</tool_call>" -}}
        {%- endfor -%}
        {{- end() -}}
    {%- elif message.role == "tool" -%}
        {%- if loop.first or loop.previtem.role != "tool" %}{{ begin("user") }}{% else %}{{ "\\n" }}{% endif -%}
        {{- "<tool_response>\\n" + text + "\\n</tool_response>" -}}
        {%- if loop.last or loop.nextitem.role != "tool" %}{{ end() }}{% endif -%}
    {%- elif message.role != "system" or not loop.first -%}
        {{- begin(message.role) + text + end() -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- begin("assistant") -}}
    {%- if enable_thinking is defined and not enable_thinking %}{{ "<think>\\n\\n</think>\\n\\n" }}{% endif -%}
{%- endif -%}
"""
"""Chats with tools and reasoning in the form that Qwen 3 has."""


def safetensors(tensors: Mapping[str, tuple[str, list[int]]] = TENSORS) -> bytes:
    """A safetensors file of zeros."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        count = 1
        for length in shape:
            count *= length
        begin, end = end, end + count * BITS[kind] // 8
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    return with_header(header, end)


def with_header(header: object, data_bytes: int = 0) -> bytes:
    """A file with this header, right or wrong."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def write_folder(folder: Path, shards: int = 0) -> Path:
    """A whole folder: one file of weights, or as many shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / "tokenizer.json").write_bytes(TOKENIZER)
    if not shards:
        (folder / "model.safetensors").write_bytes(safetensors())
        return folder
    places = {}
    for number in range(1, shards + 1):
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        (folder / name).write_bytes(safetensors({f"layer.{number}": ("F32", [4])}))
        places[f"layer.{number}"] = name
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def thinking_folder(target: Path) -> Path:
    """The default model with tokens of its own for thinking and calls of tools, and a chat template that writes them.

    The weights are the default model's, by a link: what it writes means nothing, but the forms are real.
    """
    source = default_model.fetch(default_model.folder())
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        (target / name).write_bytes((source / name).read_bytes())
    (target / "model.safetensors").symlink_to(source / "model.safetensors")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    for added in tokenizer["added_tokens"]:
        if named := MARKS.get(added["content"]):
            words[named] = words.pop(added["content"])
            added |= {"content": named, "special": False}
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    (target / "chat_template.jinja").write_text(THINKING_TEMPLATE)
    return target


def shared_folder(target: Path, *, in_waves: bool) -> Path:
    """A small model of random weights that two workers can share: its numbers of heads and layers are even.

    `in_waves`: vLLM counts it among the mixtures of experts, whose data parallel engines step together or not at all;
    its layers are dense all the same, as vLLM cannot exchange experts on a CPU.
    """
    import torch
    import transformers

    source = default_model.fetch(default_model.folder())
    target.mkdir(parents=True, exist_ok=True)
    for name in ("generation_config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"):
        (target / name).write_bytes((source / name).read_bytes())
    sizes: dict[str, Any] = {
        "vocab_size": json.loads((source / "config.json").read_text())["vocab_size"],
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,  # so large that the likeliest token is far ahead of the next
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(7)
    if in_waves:
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [0, 1]}
        model: Any = transformers.Qwen2MoeForCausalLM(transformers.Qwen2MoeConfig(**sizes, **experts))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    model.save_pretrained(target)
    return target
