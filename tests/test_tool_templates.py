"""Tools and a tool's result in eight families of chat templates: token for token what `apply_chat_template` makes.

The templates are short ones in each family's form: how it offers tools, writes calls and their results, and what it
expects beside a call.
"""

import json
from functools import cache
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmi_chat.chat_template import TOOL, BadTemplate, Template, first_chats
from lmi_chat.codec.json_text import Json
from lmi_chat.errors import TemplateRefusal
from tests.support.fakes import deployment, parse

QWEN25 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- else %}{{- 'Help.' }}{%- endif %}
    {{- '\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}{{- call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
LLAMA31 = """{{- bos_token }}{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start|>system<|end|>\\n\\n' + system + '<|eot|>' }}
{%- if tools is not none %}
    {{- '<|start|>user<|end|>\\n\\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
    {{- messages[0].content | trim + '<|eot|>' }}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message.role + '<|end|>\\n\\n' + message.content | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- for call in message.tool_calls %}
            {{- '<|start|>assistant<|end|>\\n\\n{"name": "' + call.function.name + '", "parameters": ' }}
            {{- call.function.arguments | tojson }}{{- '}<|eot|>' }}
        {%- endfor %}
    {%- else %}
        {{- '<|start|>ipython<|end|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\\n\\n' }}{%- endif %}"""
MISTRAL = """{%- if messages[0]["role"] == "system" %}{%- set asked = messages[1:] %}{%- else %}
{%- set asked = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set users = asked | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in asked %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and message == users[-1] %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, value in tool.function.items() if key != "return" %}
                    {%- if value is string %}{{- '"' + key + '": "' + value + '"' }}
                    {%- else %}{{- '"' + key + '": ' + value | tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{{- "]" if loop.last else ", " }}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- set written = call.function | tojson %}
            {{- written[:-1] }}
            {%- if not call.id is defined or call.id | length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + call.id + '"}' }}{{- "]" + eos_token if loop.last else ", " }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | string + ', "call_id": "' + message.tool_call_id }}
        {{- '"}[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}"""
QWEN3 = """{%- if tools %}{{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- set ns = namespace(last=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- if ns.last == messages | length - 1 and message.role == 'user' and message.content is string %}
        {%- set ns.last = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = '' %}
    {%- if message.content is string %}{%- set content = message.content %}{%- endif %}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}{%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and thought %}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}{%- endif %}
        {{- content }}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or not loop.first %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {%- if call.function.arguments is string %}{{- call.function.arguments }}
            {%- else %}{{- call.function.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
DEEPSEEK = """{%- set ns = namespace(is_tool=false, system='') %}
{%- for message in messages %}{%- if message['role'] == 'system' %}{%- set ns.system = message['content'] %}{%- endif %}
{%- endfor %}{{ bos_token }}{{ ns.system }}
{%- for tool in tools or [] %}{{ '\\n' + tool['function'] | tojson }}{%- endfor %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{%- set ns.is_tool = false %}{{ '<|user|>' + message['content'] }}{%- endif %}
    {%- if message['role'] == 'assistant' and message['content'] is none %}
        {{- '<|assistant|><|calls|>' }}
        {%- for tool in message['tool_calls'] %}
            {{- '<|call|>' + tool['type'] + '<|sep|>' + tool['function']['name'] + '\\n```json\\n' }}
            {{- tool['function']['arguments'] + '\\n```' + '<|callend|>' }}
        {%- endfor %}
        {{- '<|callsend|>' + eos_token }}
    {%- endif %}
    {%- if message['role'] == 'assistant' and message['content'] is not none %}
        {{- ('' if ns.is_tool else '<|assistant|>') + message['content'].split('</think>')[-1] + eos_token }}
        {%- set ns.is_tool = false %}
    {%- endif %}
    {%- if message['role'] == 'tool' %}{%- set ns.is_tool = true %}{{ '<|output|>' + message['content'] }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt and not ns.is_tool %}{{ '<|assistant|>' }}{%- endif %}"""
GRANITE = """{%- if tools %}{{- '<|role|>available_tools<|/role|>' }}
{%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' if not loop.last }}{%- endfor %}
{{- '<|eot|>\\n' }}{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'tool' %}{{- '<|role|>tool_response<|/role|>' + message['content'] + '<|eot|>\\n' }}
    {%- elif message['role'] == 'assistant' and message.tool_calls is defined %}
        {{- '<|role|>assistant<|/role|>' + message['content'] }}{{- '<|tool_call|>[' }}
        {%- for call in message.tool_calls %}
            {{- {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
            {{- ', ' if not loop.last }}
        {%- endfor %}
        {{- ']<|eot|>\\n' }}
    {%- else %}{{- '<|role|>' + message['role'] + '<|/role|>' + message['content'] + '<|eot|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if thinking %}{{- 'Think first.' }}{%- endif %}
{%- if add_generation_prompt %}{{- '<|role|>assistant<|/role|>' }}{%- endif %}"""
PHI4 = """{%- for message in messages %}
    {%- if message['role'] == 'system' and tools %}
        {{- '<|system|>' + message['content'] + '<|tool|>' }}{{- tools | tojson }}{{- '<|/tool|><|end|>' }}
    {%- elif loop.first and tools %}
        {{- '<|system|><|tool|>' }}{{- tools | tojson }}{{- '<|/tool|><|end|>' }}
        {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
    {%- else %}
        {{- '<|' + message['role'] + '|>' }}
        {%- if message.content %}{{- message.content }}
        {%- elif message.tool_calls %}
            {%- for call in message.tool_calls %}
                {{- '<|tool_call|>{"name": "' + call.function.name + '", "arguments": ' }}
                {{- call.function.arguments }}{{- '}<|/tool_call|>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- else %}{{- eos_token }}{%- endif %}"""
COMMAND_R: dict[str, str] = {
    "default": """{{ bos_token }}{% for message in messages %}{{ '<|turn|>' + message['role'] + message['content'] }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|turn|>chatbot' }}{% endif %}""",
    "rag": "{{ documents[0].text }}",
    "tool_use": """{{ bos_token }}{%- macro place(id) %}{%- set ns = namespace(count=0) %}
{%- for one in messages %}{%- for call in one.tool_calls or [] %}{%- if call.id == id %}{{ ns.count }}{%- endif %}
{%- set ns.count = ns.count + 1 %}{%- endfor %}{%- endfor %}{%- endmacro %}
{{- '## Available Tools\\n' }}
{%- for tool in tools %}
    {{- '{"name": "' ~ tool['function']['name'] ~ '", "description": "' ~ tool['function']['description'] }}
    {{- '", "parameters": ' }}{{- tool['function']['parameters'] | tojson }}{{- '}\\n' }}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role | lower == 'assistant' and message.tool_calls %}
        {{- '<|turn|>chatbot<|thinking|>' }}{{- message.reasoning_content }}{{- '<|action|>[' }}
        {%- for call in message.tool_calls %}
            {{- '{"tool_call_id": "' ~ place(call.id) ~ '", "tool_name": "' + call['function']['name'] }}
            {{- '", "parameters": ' }}{{- call['function']['arguments'] | tojson }}{{- '}' }}
            {{- ', ' if not loop.last }}
        {%- endfor %}
        {{- ']' }}
    {%- elif message.role | lower == 'tool' %}
        {{- '<|turn|>system<|result|>{"tool_call_id": "' ~ place(message.tool_call_id) ~ '", "results": ' }}
        {{- message.content | tojson }}{{- '}' }}
    {%- else %}{{- '<|turn|>' + message.role + message.content }}
    {%- endif %}
{%- endfor %}
{{- '<|turn|>chatbot' }}""",
}
FAMILIES: dict[str, tuple[Any, str | None, bool]] = {
    "qwen2.5, hermes": (QWEN25, None, False),
    "llama 3.1": (LLAMA31, None, False),
    "mistral": (MISTRAL, None, False),
    "qwen3": (QWEN3, None, False),
    "deepseek": (DEEPSEEK, None, True),
    "granite": (GRANITE, "", False),
    "phi-4": (PHI4, None, True),
    "command-r": (COMMAND_R, None, False),
}
"""A template; what stands there for no content beside a call; and whether a call's arguments are a text there."""
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>", "[INST]", "[/INST]")
SCHEMA: Json = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Which one, e.g. \u014csaka"},
        "when": {"type": "object", "properties": {"day": {"type": "integer"}}},
    },
    "required": ["city"],
}
TOOLS: list[Json] = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}},
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "The time.",
            "parameters": {"type": "object", "properties": {}},
            "strict": True,
        },
    },
]
SYSTEM: Json = {"role": "system", "content": "Be short."}
USER: Json = {"role": "user", "content": "What is it like in \u014csaka? <|im_end|> 'x' & <y>"}
FIRST = {"city": "\u014csaka \U0001f31f \"q\" 'a' <&>", "when": {"day": 3, "more": [1.5, None, True]}}


def call(identity: str, name: str, arguments: Json) -> Json:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def called(*calls: Json, **more: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def gave(identity: str, content: Any, **more: Any) -> Json:
    return {"role": "tool", "tool_call_id": identity, "content": content, **more}


ONE, OTHER = call("abcdef123", "get_weather", FIRST), call("abcdef456", "get_time", {})
CHATS: dict[str, list[Json]] = {
    "first turn": [USER],
    "a call": [USER, called(ONE), gave("abcdef123", '{"degrees": 7}')],
    "its name": [USER, called(OTHER), gave("abcdef456", "9:00", name="get_time")],
    "two calls": [USER, called(ONE, OTHER), gave("abcdef123", "7"), gave("abcdef456", "9:00")],
    "reasoning": [USER, called(ONE, reasoning="Hm."), gave("abcdef123", "7")],
    "reasoning_content": [USER, called(ONE, reasoning_content="Hm."), gave("abcdef123", "7")],
    "third turn": [
        USER,
        called(ONE),
        gave("abcdef123", "7"),
        {"role": "assistant", "content": "Seven."},
        {"role": "user", "content": "And the time?"},
        called(OTHER),
        gave("abcdef456", "9:00"),
    ],
}


@cache
def tokenizer(family: str) -> Any:
    """One of bytes and special tokens, with the family's template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    whole = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    whole.chat_template = FAMILIES[family][0]
    return whole


@cache
def template(family: str) -> Template:
    return Template(tokenizer(family))


def as_taught(messages: list[Json], family: str) -> list[Json]:
    """The messages as the family's model card has them written for `apply_chat_template`."""
    _, wordless, is_text = FAMILIES[family]
    taught = []
    for message in messages:
        own = dict(message)
        if reasoning := own.get("reasoning") or own.get("reasoning_content"):
            own |= {"reasoning": reasoning, "reasoning_content": reasoning}
        if "tool_calls" in own:
            own["content"] = own["content"] or wordless
            own["tool_calls"] = [
                each if is_text else {**each, "function": {**each["function"], "arguments": json.loads(written)}}
                for each in own["tool_calls"]
                for written in [each["function"]["arguments"]]
            ]
        taught.append(own)
    return taught


def expected(messages: list[Json], family: str, **given: Any) -> list[int]:
    found: list[int] = tokenizer(family).apply_chat_template(
        as_taught(messages, family), add_generation_prompt=True, return_dict=True, **given
    )["input_ids"]
    return found


def prompt_ids(messages: list[Json], family: str, **fields: Any) -> list[int]:
    """By the way of every request."""
    here = deployment(template=template(family), tool_parser="any", context_tokens=2**14, vocabulary_tokens=2**14)
    return parse({"messages": messages, **fields}, here).job.prompt_ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chat", CHATS)
def test_a_turn_with_a_tools_result_is_what_apply_chat_template_makes_of_it(family: str, chat: str) -> None:
    ids = prompt_ids(CHATS[chat], family, tools=TOOLS)
    assert ids == expected(CHATS[chat], family, tools=TOOLS)
    text = tokenizer(family).decode(ids)
    assert "get_time" in text
    assert "get_weather" in text
    assert ("\\u014c" in text or "\u014csaka \U0001f31f" in text) == any(
        ONE in one.get("tool_calls", ()) for one in CHATS[chat]
    )
    if FAMILIES[family][0] not in (MISTRAL, COMMAND_R):
        system = [SYSTEM, *CHATS[chat]]
        assert prompt_ids(system, family, tools=TOOLS) == expected(system, family, tools=TOOLS)


@pytest.mark.parametrize("family", FAMILIES)
def test_chats_without_tools_are_as_they_were(family: str) -> None:
    chat = [USER, {"role": "assistant", "content": "Fine."}, {"role": "user", "content": "Sure?"}]
    assert prompt_ids(chat, family) == expected(chat, family)
    assert prompt_ids(chat, family, tools=TOOLS, tool_choice="none") == expected(chat, family)
    assert "get_time" not in tokenizer(family).decode(prompt_ids(chat, family))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_forms_of_a_call_and_of_its_result_are_one(family: str) -> None:
    """Arguments as an object or as its text, a result as a text or as parts."""
    usual = prompt_ids(CHATS["a call"], family, tools=TOOLS)
    as_object = {**ONE, "function": {**ONE["function"], "arguments": FIRST}}
    parts = [{"type": "text", "text": '{"degrees": 7}'}]
    for own in ([USER, called(ONE), gave("abcdef123", parts)], [USER, called(as_object), gave("abcdef123", parts)]):
        same = prompt_ids(own, family, tools=TOOLS)
        texts = [
            tokenizer(family).decode(ids).replace("\\u014c", "\u014c").replace("\\ud83c\\udf1f", "\U0001f31f")
            for ids in (same, usual)
        ]
        assert texts[0] == texts[1]
    empty = [USER, {**called(ONE), "content": ""}, gave("abcdef123", "7")]
    assert "get_weather" in tokenizer(family).decode(prompt_ids(empty, family, tools=TOOLS[1:]))
    spoken = [USER, {**called(ONE), "content": "Let me see."}, gave("abcdef123", "7")]
    assert prompt_ids(spoken, family, tools=TOOLS) == expected(spoken, family, tools=TOOLS)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_knows_tools_and_renders_them_the_short_way(family: str) -> None:
    assert template(family).knows_tools
    made = tokenizer(family)
    whole, asked = type(made).apply_chat_template, list[Any]()

    def counting(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs)
        return whole(made, *args, **kwargs)

    made.apply_chat_template = counting
    try:
        prompt_ids(CHATS["a call"], family, tools=TOOLS)
        assert not asked
    finally:
        del made.apply_chat_template


def of(source: str | dict[str, str]) -> Template:
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer("mistral")._tokenizer, bos_token="<s>", eos_token="</s>")
    made.chat_template = source
    return Template(made)


TURNS = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "is_known"),
    [
        (TURNS, False),
        (TURNS + "{% if tools %}{{ tools | tojson }}{% endif %}", True),
        (TURNS + "{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}", True),
        (TURNS + "{% set tools = [] %}{{ tools }}", False),
        (TURNS + "{# tools #}{{ 'tools' }}", False),
        ({"default": TURNS, "tool_use": TURNS + "{{ tools | tojson }}"}, True),
        ({"default": TURNS + "{{ tools }}", "rag": TURNS}, True),
        ({"default": TURNS, "tool_use": "{{ raise_exception('never') }}{{ tools }}"}, False),
        ({"default": TURNS, "tool_use": TURNS}, False),
    ],
)
def test_whether_a_template_knows_tools(source: Any, is_known: bool) -> None:  # noqa: FBT001
    assert of(source).knows_tools == is_known


def test_code_in_place_of_a_template_knows_tools_that_it_shows() -> None:
    class Coded(PreTrainedTokenizerFast):  # type: ignore[misc]
        def apply_chat_template(self, conversation: Any, *, tools: Any = None, **_: Any) -> str:
            return "".join(message["content"] for message in conversation) + (str(tools) if self.shows else "")

    made: Any = Coded(tokenizer_object=tokenizer("mistral")._tokenizer)
    for made.shows in (True, False):
        assert Template(made).knows_tools == made.shows


def test_variables_of_both_templates_may_be_set() -> None:
    both = {"default": TURNS + "{{ mood }}", "tool_use": TURNS + "{{ tools }}{{ tone }}"}
    template = of(both)
    assert template.reads == {"mood", "tone"}
    assert template.variables == {"mood", "tone", "enable_thinking"}
    assert template.render([USER], variables={"tone": "dry"}, tools=TOOLS).endswith("dry")  # type: ignore[union-attr]


def test_a_template_that_wants_no_tools_says_so_and_keeps_its_short_way() -> None:
    template = of(TURNS + "{% if tools %}{{ raise_exception('No tools here.') }}{% endif %}")
    assert template._short is not None
    with pytest.raises(TemplateRefusal, match=r"refused by the model's chat template: No tools here\."):
        template.render([USER], tools=TOOLS)
    assert template.render([USER]) == "user" + USER["content"]


def test_a_template_cannot_change_the_tools() -> None:
    template = of(TURNS + "{{ tools }}{% if messages | length > 1 %}{{ tools.append(1) }}{% endif %}")
    offered = [TOOL]
    with pytest.raises(TemplateRefusal, match=r"immutable|not safely|unsafe"):
        template.render([USER, USER], tools=offered)
    assert offered == [TOOL]


def test_a_template_for_tools_may_know_parts_alone() -> None:
    """What the forms of contents are is learned of each template by itself."""
    parts = "{% for m in messages %}{{ m.role }}{% for part in m.content %}{{ part.text + '' }}{% endfor %}{% endfor %}"
    template = of({"default": TURNS, "tool_use": parts + "{{ tools | length }}"})
    assert template.render([USER]) == "user" + USER["content"]
    assert template.render([USER], tools=TOOLS) == f"user{USER['content']}2"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_template_renders_only_what_was_tried_in_a_process_of_its_own(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, seen = tokenizer(family), list[Json]()
    whole = Template._apply_whole

    def noting(self: Template, messages: Any, **kwargs: Any) -> Any:
        head = kwargs["add_generation_prompt"]
        offered = {"tools": kwargs["tools"]} if "tools" in kwargs else {}
        seen.append({"messages": json.loads(json.dumps(messages)), "add_generation_prompt": head, **offered})
        return whole(self, messages, **kwargs)

    monkeypatch.setattr(Template, "_apply_whole", noting)
    monkeypatch.setattr(Template, "_find_short", lambda _: None)
    Template(made)
    assert len(seen) > 8
    assert all(chat in first_chats() for chat in seen)


def test_one_that_takes_for_ever_with_a_tool_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmi_chat.chat_template.TRIAL_S", 0.2)
    slow = "{% if tools %}{% for a in range(99999) %}{% for b in range(99) %}{% endfor %}{% endfor %}{% endif %}"
    with pytest.raises(BadTemplate, match=r"takes longer than 0\.2 s"):
        of(TURNS + slow)
