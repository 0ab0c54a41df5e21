"""The chat template's short way: for each template and chat what transformers' `apply_chat_template` makes of it."""

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lmi_chat.chat_template import Template
from lmi_chat.errors import BadField
from lmi_chat.text import one_line

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
