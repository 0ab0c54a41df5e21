"""What a chat says of the model's reasoning: an effort, whether it is shown, and how long it may be."""

from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lmi_chat.chat_template import Template
from lmi_chat.codec.json_text import Json
from lmi_chat.job import ParsingParams
from tests.support.fakes import deployment, parse, refusal

USER: Json = {"role": "user", "content": "hi"}
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
TEXT = "{% for m in messages %}{{ m.content }}{% endfor %};"
READS = {
    "effort": "{{ reasoning_effort }}",
    "switch": "{{ enable_thinking }}",
    "thinking": "{{ thinking | default('unset') }}",
    "all": "{{ reasoning_effort }} {{ enable_thinking }}",
    "nothing": "",
}


def template(reads: str) -> Template:
    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    made: Any = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    made.chat_template = TEXT + READS[reads]
    return Template(made)


def asked(reads: str, at: Json | None = None, **fields: Any) -> tuple[str, list[str]]:
    """What the template writes of it, and the warnings."""
    task = parse({"messages": [USER], **fields}, deployment(template=template(reads), **at or {}))
    return task.job.prompt_text.removeprefix("hi;"), task.unknown


@pytest.mark.parametrize("effort", EFFORTS)
def test_an_effort_is_what_the_template_reads_of_it(effort: str) -> None:
    thinks = str(effort != "none")
    assert asked("effort", reasoning_effort=effort) == (effort, [])
    assert asked("switch", reasoning_effort=effort) == (thinks, [])
    assert asked("thinking", reasoning_effort=effort) == (thinks, [])
    assert asked("all", reasoning_effort=effort) == (f"{effort} {thinks}", [])


def test_an_effort_that_no_template_reads_is_told() -> None:
    told = ["reasoning_effort is ignored: the model's chat template reads no variable that says it"]
    assert asked("nothing", reasoning_effort="low") == ("", told)
    assert asked("nothing", reasoning_effort="none") == ("", []), "it does not reason"
    assert asked("nothing", {"reasoning_parser": "think"}, reasoning_effort="none") == ("", told)
    allowed = {"template_variables": frozenset({"reasoning_effort"})}
    assert asked("nothing", allowed, reasoning_effort="low") == ("", []), "the deployment knows better"


def test_a_variable_of_its_own_overrules_the_effort() -> None:
    assert asked("all", reasoning_effort="low", chat_template_kwargs={"enable_thinking": False}) == ("low False", [])
    assert asked("effort", reasoning_effort="low", chat_template_kwargs={"reasoning_effort": "low"}) == ("low", [])
    assert asked("thinking")[0] == "unset"
    fields = {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}}
    error = refusal({"messages": [USER], **fields}, "chat", template=template("effort"))
    assert (error.param, "say the same thing with different values" in error.message) == ("reasoning_effort", True)


def test_a_deployment_has_variables_of_its_own_which_a_request_overrules() -> None:
    at: dict[str, Any] = {"template_defaults": {"enable_thinking": False, "reasoning_effort": "low"}}
    assert asked("all", at) == ("low False", [])
    assert asked("all", at, reasoning_effort="high") == ("high True", [])
    assert asked("all", at, chat_template_kwargs={"enable_thinking": 1}) == ("low 1", [])
    task = parse({"inputs": [USER]}, deployment(template=template("all"), **at))
    assert (task.dialect, task.job.prompt_text) == ("standard", "hi;low False")
    made = parse({"messages": [USER]}, deployment(template=template("all"), reasoning_parser="qwen3", **at))
    assert made.job.parsing
    assert made.job.parsing.variables == at["template_defaults"], "parsers look at them as well"


def parsing(**fields: Any) -> ParsingParams | None:
    here = deployment(template=template("all"), reasoning_parser="think")
    return parse({"messages": [USER], **fields}, here).job.parsing


def test_reasoning_is_taken_apart_where_the_model_reasons() -> None:
    assert parsing() == ParsingParams(messages=[USER])
    assert parsing(include_reasoning=False) == ParsingParams(messages=[USER], shows_reasoning=False)
    given = {"reasoning_effort": "none", "enable_thinking": False}
    assert parsing(reasoning_effort="none") == ParsingParams(messages=[USER], variables=given)
    switched = {"enable_thinking": True}
    assert parsing(chat_template_kwargs=switched) == ParsingParams(messages=[USER], variables=switched)
    assert parse({"messages": [USER], "include_reasoning": False}, deployment()).job.parsing is None


def test_a_beam_search_is_not_taken_apart() -> None:
    assert parsing(use_beam_search=True) is None
    for fields in ({"include_reasoning": False}, {"thinking_token_budget": 5}):
        error = refusal({"messages": [USER], "use_beam_search": True, **fields}, "chat", reasoning_parser="think")
        assert (error.param, f"beside {next(iter(fields))}" in error.message) == ("use_beam_search", True)


@pytest.mark.parametrize(("sent", "budget"), [(None, None), (-1, None), (0, 0), (7, 7)])
def test_a_budget_reaches_sampling(sent: int | None, budget: int | None) -> None:
    here = deployment(reasoning_parser="think")
    task = parse({"messages": [USER], "thinking_token_budget": sent}, here)
    assert task.job.sampling.thinking_token_budget == budget
