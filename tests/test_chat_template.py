"""The chat template's short way: for each template and chat what transformers' `apply_chat_template` makes of it."""

import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lmi_chat.chat_template import BadTemplate, Template
from lmi_chat.errors import BadField
from lmi_chat.text import one_line
from lmi_chat.tokenization import SHORT_CHARS

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are helpful<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
DATED = """{{- bos_token }}{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if tools is not none %}TOOLS{% endif %}{% if documents %}DOCUMENTS{% endif %}
{%- set ns = namespace(count=0) %}
{%- for message in messages %}
    {%- set ns.count = ns.count + 1 %}
    {%- if message.role == 'skip' %}{%- continue %}{%- endif %}
    {{- '<|start|>' ~ message.role ~ ' ' ~ ns.count ~ ' ' ~ message.content | trim ~ '<|end|>' }}
{%- endfor %}
{{- date_string }}{% if add_generation_prompt %}<|start|>assistant{% endif %}"""
STRICT = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}
{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]{% else %}
{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"""
THINKING = """{% macro line(message) %}{{ message | tojson }};{{ unk_token }}{% endmacro %}
{% for message in messages %}{{ line(message) }}{% endfor %}
{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{{ mood | default('none') }}
{% if continue_final_message %}CONTINUED{% endif %}"""
TEMPLATES = {"chatml": CHATML, "dated": DATED, "strict": STRICT, "thinking": THINKING}
USER = {"role": "user", "content": "What is 1 < 2 & 'x'?"}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "turns": [USER, {"role": "assistant", "content": " Yes.\n"}, {"role": "user", "content": "Sure? é🌟 {{ 7 }}"}],
    "system": [{"role": "system", "content": "Be short."}, USER],
    "empty": [{"role": "user", "content": ""}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
}


class Counting(PreTrainedTokenizerFast):  # type: ignore[misc]
    """Counts how often transformers' own way is taken."""

    whole = 0

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        self.whole += 1
        return super().apply_chat_template(*args, **kwargs)


class Shouting(Counting):
    """A model's tokenizer with a prompt of its own."""

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        return str(super().apply_chat_template(*args, **kwargs)).upper()


def tokenizer(template: str | dict[str, str], kind: type[Counting] = Counting) -> Any:
    words = models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>")
    made = kind(tokenizer_object=Tokenizer(words), unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def own_way(made: Any, messages: Sequence[dict[str, Any]], template: Template, **given: Any) -> str:
    shown = [template._shaped(message) for message in messages]
    try:
        return str(made.apply_chat_template(shown, tokenize=False, **given))
    except Exception as error:  # noqa: BLE001 whatever a template raises is compared
        return f"refused: messages are refused by the model's chat template: {one_line(str(error), 200)}"


def our_way(template: Template, messages: Sequence[dict[str, Any]], **given: Any) -> str:
    variables = {name: value for name, value in given.items() if name != "add_generation_prompt"}
    has_head = given["add_generation_prompt"]
    try:
        return str(template.render(messages, add_generation_prompt=has_head, variables=variables))
    except BadField as error:
        return f"refused: {error.message}"


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("has_head", [True, False])
@pytest.mark.parametrize("is_source", [True, False])
def test_the_short_way_leads_to_the_same_prompt(name: str, chat: str, *, has_head: bool, is_source: bool) -> None:
    """With and without variables, for chats that the template refuses too; and transformers is not asked again."""
    made = tokenizer("{{ raise_exception('the wrong one') }}" if is_source else TEMPLATES[name])
    source = TEMPLATES[name] if is_source else None
    template = Template(made, source)
    for variables in ({}, {"enable_thinking": False, "mood": "mild"}, {"bos_token": "<other>", "date_string": "today"}):
        given: dict[str, Any] = {"add_generation_prompt": has_head, **variables}
        expected = own_way(made, CHATS[chat], template, **given, **({"chat_template": source} if source else {}))
        before = made.whole
        assert our_way(template, CHATS[chat], **given) == expected
        assert made.whole == before


def test_a_named_default_among_several_templates_is_taken() -> None:
    made = tokenizer({"default": CHATML, "rag": "RAG"})
    assert Template(made).render([USER]) == made.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)


def test_a_tokenizer_with_a_way_of_its_own_is_asked_each_time() -> None:
    made = tokenizer(CHATML, Shouting)
    template = Template(made)
    before = made.whole
    assert str(template.render([USER])).endswith("WHAT IS 1 < 2 & 'X'?<|IM_END|>\n<|IM_START|>ASSISTANT\n")
    assert made.whole == before + 1


def test_what_transformers_takes_for_itself_goes_its_way() -> None:
    """A message that is continued, and a variable that is an argument of `apply_chat_template`."""
    made = tokenizer(CHATML)
    template = Template(made)
    before = made.whole
    begun = [USER, {"role": "assistant", "content": "It is "}]
    text = str(template.render(begun, add_generation_prompt=False, continue_final_message=True))
    assert text.endswith("<|im_start|>assistant\nIt is ")
    with pytest.raises(BadField, match=r"cannot be rendered .* \(Documents should be a list of dicts"):
        template.render([USER], variables={"documents": ["no object"]})
    assert made.whole == before + 2


def test_the_template_cannot_change_what_it_is_given() -> None:
    """It runs in the sandbox this way too, and no chat leaves anything behind for the next."""
    made = tokenizer(
        "{% set bos_token = 'mine' %}{{ bos_token }}{{ messages.append(1) if messages | length > 1 }}"
        "{{ messages[0].content }}"
    )
    template = Template(made)
    said = f"mine{USER['content']}"
    assert template.render([USER]) == said
    with pytest.raises(BadField, match=r"immutable|not safely|unsafe"):
        template.render([USER, USER])
    assert template.render([USER]) == said


ALTERNATING = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}"
PARTS_ONLY = """{% for m in messages %}<{{ m['role'] }}>{% for part in m['content'] %}{% if part['type'] == 'text' %}
{{- part['text'] -}}
{% endif %}{% endfor %}{% endfor %}"""
PARTS_OF_USERS = """{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'user' %}{% for part in m['content'] %}
{{- part.text -}}
{% endfor %}{% else %}{{ m['content'] + '' }}{% endif %}{% endfor %}"""
NEVER_TEXT = """{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{{- part['text'] + '' -}}{% endfor %}
{%- endfor %}"""
BOTH = """{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}
{%- for part in m.content %}[{{ part.text }}]{% endfor %}{% endif %}{% endfor %}"""
CONTENTS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Sure?"},
]


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        (ALTERNATING, "<system>Be short.<user>a\nb<assistant>Yes.<user>Sure?"),
        (PARTS_ONLY, "<system>Be short.<user>ab<assistant>Yes.<user>Sure?"),
        (PARTS_OF_USERS, "<system>Be short.<user>ab<assistant>Yes.<user>Sure?"),
        (NEVER_TEXT, "<system>Be short.<user>ab<assistant>Yes.<user>Sure?"),
        (BOTH, "<system>Be short.<user>[a][b]<assistant>Yes.<user>Sure?"),
    ],
)
def test_content_has_the_form_that_the_template_reads(source: str, prompt: str) -> None:
    """Of each role: a text where it takes texts, parts where it knows nothing else; no text gets lost in silence."""
    assert Template(tokenizer(source)).render(CONTENTS) == prompt


def test_an_empty_text_is_no_part() -> None:
    template = Template(tokenizer(PARTS_ONLY))
    assert template.render([{"role": "user", "content": ""}]) == "<user>"
    assert template.render([USER, {"role": "assistant", "content": None}]) == f"<user>{USER['content']}<assistant>"
    tool = {"role": "tool", "content": [{"type": "text", "text": "7"}]}
    assert Template(tokenizer(BOTH)).render([USER, tool]).endswith("<tool>7"), "what a tool gives is a text everywhere"  # type: ignore[union-attr]


TOOLS = """{% for m in messages %}<{{ m.role }}>{{ m.content + '' }}{% for call in m.tool_calls or [] %}
{{- call.function.name }}({% for key, value in call.function.arguments.items() -%}
{{ key }}={{ value | tojson }};{% endfor %}){% endfor %}{% endfor %}"""


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}])
def test_calls_without_a_word_are_rendered(content: dict[str, Any]) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1], "b": "\u00e9"}'}}
    chat = [USER, {"role": "assistant", "tool_calls": [call], **content}, {"role": "tool", "content": "7"}]
    text = Template(tokenizer(TOOLS)).render(chat)
    assert text == f'<user>{USER["content"]}<assistant>f(a=[1];b="\u00e9";)<tool>7'


def test_a_reason_has_both_of_its_names() -> None:
    template = Template(
        tokenizer("{% for m in messages %}{{ m.content }}{{ m.reasoning }}{{ m.reasoning_content }};{% endfor %}")
    )
    for name in ("reasoning", "reasoning_content"):
        assert template.render([USER, {"role": "assistant", "content": "b", name: "c"}]) == f"{USER['content']};bcc;"


@pytest.mark.parametrize("parts", [False, True])
def test_a_developer_speaks_as_the_system_where_the_template_knows_none(*, parts: bool) -> None:
    def said(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}

    for source in (ALTERNATING, PARTS_ONLY, BOTH):
        template = Template(tokenizer(source))
        assert "developer" not in template.render([said("developer", "a"), USER])
        once = template.render([{"role": "system", "content": "a\n\nb\n\nc"}, USER])
        assert template.render([said("system", "a"), said("developer", "b"), USER, said("developer", "c")]) == once
    knows = Template(tokenizer(ALTERNATING + "{% if messages[0].role == 'developer' %}!{% endif %}"))
    assert knows.render([said("developer", "a"), USER]) == f"<developer>a<user>{USER['content']}!"


@pytest.mark.parametrize(
    ("source", "takes"),
    [
        (CHATML, True),
        (STRICT, False),
        ("{% for m in messages %}{{ m.content if m.role != 'system' or loop.first }}{% endfor %}", False),
        ("{% for m in messages %}{{ m.content[0].text }}{% endfor %}", True),
    ],
)
def test_whether_a_system_message_is_taken_amid_others_is_learned(source: str, *, takes: bool) -> None:
    assert Template(tokenizer(source)).takes_later_system == takes


def test_system_messages_stay_where_they_are_without_a_developer() -> None:
    chat = [{"role": "system", "content": "a"}, USER, {"role": "system", "content": "b"}]
    assert Template(tokenizer(ALTERNATING)).render(chat) == f"<system>a<user>{USER['content']}<system>b"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/opt/ml/model/missing.jinja", "leaves the text of a user message out of the prompt"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves the text of a user message out of the prompt"),
        ("{{ messages[0].text + '' }}", "fails for one user message"),
        ("{{ raise_exception('Not I.') }}", "fails for one user message: Not I."),
        ("{% for m in messages %}", "fails for one user message"),
    ],
)
@pytest.mark.parametrize("is_source", [True, False])
def test_a_template_that_loses_the_text_stops_the_start(source: str, said: str, *, is_source: bool) -> None:
    with pytest.raises(BadTemplate, match=said):
        Template(tokenizer(CHATML if is_source else source), source if is_source else None)


def test_a_tokenizer_without_a_template_serves_no_chat_and_one_with_code_does() -> None:
    none: Any = None
    template = Template(tokenizer(none))
    assert not template.has_chat
    with pytest.raises(BadField, match="messages cannot be served: the model has no chat template"):
        template.render([USER])

    class Coded(Counting):
        def apply_chat_template(self, conversation: Any, **_: Any) -> Any:
            return "|".join(f"{message['role']}: {message['content']}" for message in conversation)

    assert Template(tokenizer(none, Coded)).render([USER]) == f"user: {USER['content']}"


def test_a_refusal_is_in_the_authors_words_and_a_failure_in_ours() -> None:
    author = Template(tokenizer(STRICT))
    with pytest.raises(BadField) as refused:
        author.render([USER, USER])
    assert refused.value.message == (
        "messages are refused by the model's chat template: Roles must alternate user/assistant"
    )
    fails = Template(tokenizer(ALTERNATING + "{{ messages[1].name + '' if messages | length > 1 }}"))
    with pytest.raises(BadField) as failed:
        fails.render([USER, USER], path="inputs[1]")
    assert failed.value.param == "inputs[1]"
    assert "inputs[1] cannot be rendered by the model's chat template, which fails for them ('dict object' has" in (
        failed.value.message
    )
    endless = Template(
        tokenizer("{% macro a() %}{{ a() }}{% endmacro %}{{ messages[0].content }}{{ a() if messages | length > 1 }}")
    )
    with pytest.raises(BadField, match="which fails for them"):
        endless.render([USER, USER])


def test_a_request_sets_the_variables_that_the_template_reads() -> None:
    """And what every recipe sends; never what a field of the request or the tokenizer stands for, or a function."""
    reads = """{{ bos_token }}{{ eos_token }}{{ pad_token }}{% if tools %}{% endif %}{% for m in messages %}
    {{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ strftime_now('%Y') }}{% endif %}
    {% if not date_string is defined %}{% set date_string = 'today' %}{% endif %}{% set ns = namespace(a=documents) %}
    {{ thinking_budget | default(0) }}
    {% macro f(inner) %}{{ inner }}{{ mood }}{% endmacro %}{% for i in range(1) %}
    {{ raise_exception('x') if angry }}{% endfor %}
    {{ continue_final_message }}{{ chat_template }}{{ tokenize }}{{ messages[0] }}{{ own_token }}"""
    made = tokenizer(reads)
    template = Template(made)
    assert template.variables == {"enable_thinking", "date_string", "thinking_budget", "mood", "angry", "own_token"}
    assert Template(tokenizer(CHATML), reads).variables == template.variables
    assert Template(tokenizer(CHATML)).variables == {"enable_thinking"}


def test_a_long_text_is_tokenised_while_others_have_the_interpreter() -> None:
    made = tokenizer(CHATML)
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    template, gate, seen, is_inside = Template(made), threading.Lock(), list[bool](), True
    gate.acquire()

    def other() -> None:
        gate.acquire()
        seen.append(is_inside)

    thread = threading.Thread(target=other)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody is made to let go of it
    try:
        gate.release()
        ids = template.encode("<s> word " * 100_000, add_special_tokens=False)
        is_inside = False
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert ids == [1, 0] * 100_000
    assert seen == [True]


def test_long_and_short_texts_are_tokenised_alike() -> None:
    made = tokenizer(CHATML)
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    template = Template(made)
    for count in (1, SHORT_CHARS):
        for has_special in (True, False):
            ids = template.encode("a </s> " * count, add_special_tokens=has_special)
            assert ids == [1] * has_special + [0, 2] * count
        assert template.encode_part("a </s> " * count, 2, add_special_tokens=True) == [1, 0]
        assert template.encode_part("a </s> " * count, 2, is_end=True, add_special_tokens=False) == [0, 2]
