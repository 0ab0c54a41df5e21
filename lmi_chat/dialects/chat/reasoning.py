"""Check the fields by which a chat steers reasoning, and the variables of its template, by which it may do so too.

Shapes: OpenAI's `reasoning_effort`, vLLM's `include_reasoning`, `thinking_token_budget` and `chat_template_kwargs`.
"""

from collections.abc import Mapping
from typing import Any

from lmi_chat.dialects.reader import BodyReader
from lmi_chat.text import echo, one_line

VARIABLE_CHARS = 1024
VARIABLES, EFFORT, BUDGET = "chat_template_kwargs", "reasoning_effort", "thinking_token_budget"
NO_BUDGET = -1  # as vLLM has it
SWITCHES = ("enable_thinking", "thinking")
"""The variables by which templates switch thinking on and off."""


def check_variables(reader: BodyReader) -> Mapping[str, Any]:
    """Variables for the template: only names that it reads or that the deployment allows, only plain values.

    What a request says goes before the deployment's defaults.

    An effort is one of them where the template reads it, and switches thinking where the template has a switch for it.
    """
    given: Mapping[str, Any] = reader.extra.get(VARIABLES, {})
    allowed = reader.deployment.variables
    for name, value in given.items():
        path = f"{VARIABLES}.{one_line(name, 40)}"
        if name not in allowed:
            told = (
                f"is not allowed; the chat template and option.chat_template_kwargs allow {', '.join(sorted(allowed))}"
            )
            reader.add_problem(path, told)
        elif not isinstance(value, str | int | float | None) or (
            isinstance(value, str) and len(value) > VARIABLE_CHARS
        ):
            reader.add_problem(path, f"must be a plain value of at most {VARIABLE_CHARS} characters, got {echo(value)}")
    effort = reader.extra.get(EFFORT)
    said = given if effort is None else _with_effort(given, effort, reader)
    defaults = reader.deployment.template_defaults
    return {**defaults, **said} if defaults else said


def _with_effort(given: Mapping[str, Any], effort: str, reader: BodyReader) -> Mapping[str, Any]:
    deployment = reader.deployment
    if given.get(EFFORT, effort) != effort:
        text = f"and {VARIABLES}.{EFFORT} say the same thing with different values; send one of them"
        reader.add_problem(reader.paths[EFFORT], text)
    said = {EFFORT: effort, **dict.fromkeys(SWITCHES, effort != "none")}
    reads = deployment.template.reads | deployment.template_variables
    known = {name: value for name, value in said.items() if name in reads}
    if not known and (effort != "none" or deployment.reasoning_parser):
        reader.warnings.append(
            f"{reader.paths[EFFORT]} is ignored: the model's chat template reads no variable that says it"
        )
    return {**known, **given}


def check_budget(reader: BodyReader) -> None:
    """Where nobody knows which tokens reason, none can be counted."""
    budget = reader.given.get(BUDGET)
    if budget == NO_BUDGET:
        del reader.given[BUDGET]
    elif budget is not None and not reader.deployment.reasoning_parser:
        text = "needs a model whose reasoning is taken apart: option.reasoning_parser names no parser, and none was"
        reader.add_problem(BUDGET, f"{text} recognised for this model; got {budget}")
