"""Make of the tools that a model may or must call the constraint that its answer must fit.

A choice "required" or "named" is forced, and nothing but calls comes. Under "auto" the text is free, until it begins a
call, where one of these asks for it: a tool is strict, at most one call may come, the deployment says so, or the text
must have a form, so that the answer is either calls or that form. Else nothing is forced.

Wherever a call is forced into its form, its arguments fit the schema, of tools that are not strict as well: what is
free is no better for anybody. But what the compiler cannot do of such a tool's schema is passed over.

The form of a call is the parser's: vLLM describes it for some (tags.py), for others it stands in ENVELOPES. The rest
read required calls as a JSON array, and named ones as JSON. Where a parser has none of these, calls cannot be forced.
"""

import importlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmi_chat.engine import Model
from lmi_chat.engine.vllm import tool_schema
from lmi_chat.engine.vllm.chat_request import chat_request
from lmi_chat.engine.vllm.structured_output import tags, whitespace
from lmi_chat.engine.vllm.structured_output.arguments import STYLES, hy_style
from lmi_chat.engine.vllm.structured_output.lark import Grammar, choice, escape, quote, regex
from lmi_chat.errors import BadField, Problem
from lmi_chat.job import OutputConstraint, ParsingParams, Tool

PATH = "tools"
KEPT = 64
HY, KIMI, LLAMA, HARMONY = "hy_v4", "kimi_k3", "llama", "harmony"
HARMONY_CALL, HARMONY_ENDS = " to=functions.", ["<|call|>", ""]
"""A call of gpt-oss ends with a token that ends the answer, which vLLM's description leaves out."""
FINAL = "<|channel|>final{}<|message|>"


@dataclass(frozen=True, slots=True)
class Envelope:
    """How a parser's calls are written as JSON: each call in `begin` and `end`, or all as one array in them.

    `key` is the name of the arguments; "" where a call is the tool's name, `middle` and the arguments.
    """

    begin: str
    end: str = ""
    is_array: bool = False
    key: str = "arguments"
    middle: str = ""


HERMES = Envelope("<tool_call>\n", "\n</tool_call>")
ENVELOPES: Mapping[str, tuple[Envelope, ...]] = {
    "granite4": (HERMES,),
    "ernie45": (HERMES,),
    "jamba": (Envelope("<tool_calls>", "</tool_calls>", is_array=True),),
    "hunyuan_a13b": (Envelope("<tool_calls>", "</tool_calls>", is_array=True),),
    "granite": (Envelope("<|tool_call|>", is_array=True), Envelope("<tool_call>", is_array=True)),
    "granite-20b-fc": (Envelope("<function_call>"),),
    "internlm": (Envelope("<|action_start|><|plugin|>\n", "<|action_end|>", key="parameters"),),
}
"""Of parsers that vLLM describes no form for. Of several the first whose marker is in the vocabulary."""
MISTRAL = Envelope("[TOOL_CALLS]", key="", middle="[ARGS]")
MISTRAL_ARRAY = Envelope("[TOOL_CALLS]", is_array=True)


class ToolGrammars:
    """The constraints of the tools of one model."""

    def __init__(self, name: str, parser: Any, tokenizer: Any, *, is_compact: bool = False) -> None:
        """`name` is the tool parser's, `parser` its class in vLLM; `is_compact`: JSON has no whitespace by itself."""
        self._name, self._parser, self._tokenizer, self._is_compact = name, parser, tokenizer, is_compact
        self._special = special_tokens(tokenizer)
        self._envelope = _envelope(name, tokenizer)
        self._kept: OrderedDict[int, tuple[ParsingParams, OutputConstraint | None, OutputConstraint | None]]
        self._kept = OrderedDict()

    def constraint(self, parsing: ParsingParams, given: OutputConstraint | None) -> OutputConstraint | None:
        """Build the constraint of an answer, `given` being that of its text; None for a free one. Raises BadField.

        It is asked for when a job is checked and again when it runs, which costs nothing: a few are kept.
        """
        kept = self._kept.get(id(parsing))
        if kept is not None and kept[0] is parsing and kept[1] is given:
            return kept[2]
        made = self._make(parsing, given)
        self._kept[id(parsing)] = parsing, given, made
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return made

    def _make(self, parsing: ParsingParams, given: OutputConstraint | None) -> OutputConstraint | None:
        if not parsing.tools or parsing.choice == "none":
            return self._alone(given)
        if parsing.choice == "auto":
            is_formed = parsing.is_formed or not parsing.is_parallel or any(tool.is_strict for tool in parsing.tools)
            if given is None and not is_formed:
                return None
            return self._native(parsing, given) or given
        if parsing.choice == "named":
            parsing = replace(parsing, tools=tuple(tool for tool in parsing.tools if tool.name == parsing.named))
        return self._native(parsing, None) or self._plain(parsing)

    def _native(self, parsing: ParsingParams, given: OutputConstraint | None) -> OutputConstraint | None:
        """Write the calls as the parser has them, or `given` in their place; None where it has no known form."""
        grammar = Grammar(self._special)
        forced = replace(parsing, choice="required") if given else parsing
        if given and self._parser.structural_tag_model == LLAMA and given.kind in ("json", "json_object"):
            return OutputConstraint("grammar", grammar.text(self._as_objects(parsing, given, grammar)), PATH)
        if self._parser.structural_tag_model is not None:
            calls = self._tagged(forced, grammar)
        elif self._envelope is not None and not (self._parser.supports_required_and_named and parsing.choice != "auto"):
            calls = self._enveloped(forced, grammar, self._envelope)
        else:
            return None
        if calls is None:
            return None
        start = choice([calls, self._formed(given, grammar)]) if given else calls
        return OutputConstraint("grammar", grammar.text(start), PATH)

    def _tagged(self, parsing: ParsingParams, grammar: Grammar) -> str | None:
        """Write the calls as vLLM describes them; None where it does not."""
        from vllm import envs
        from vllm.tool_parsers.hy_v4_tool_parser import detect_token_suffix
        from vllm.tool_parsers.structural_tag_registry import (
            SUPPORTED_STRUCTURAL_TAG_MODELS,
            get_model_structural_tag,
            limit_to_single_tool_call,
        )
        from vllm.tool_parsers.tool_strict_level import ToolStrictLevel

        model = self._parser.structural_tag_model
        known = SUPPORTED_STRUCTURAL_TAG_MODELS | {"minimax", HARMONY}
        if not envs.VLLM_ENFORCE_STRICT_TOOL_CALLING or model not in known:
            return None
        if model == HARMONY:
            importlib.import_module("vllm.parser.harmony")  # which describes its calls when it is imported
        request = chat_request(parsing)
        for tool, own in zip(request.tools, parsing.tools, strict=True):
            tool.function.parameters = self._schema(own)
        suffix = detect_token_suffix(self._tokenizer) if model == HY else ""
        tag = get_model_structural_tag(
            model,
            request.tools,
            request.tool_choice,
            reasoning=False,
            token_suffix=suffix,
            strict_level=ToolStrictLevel.PARAMETER,
        )
        if tag is None:
            return None
        if not parsing.is_parallel or parsing.choice == "named":
            limit_to_single_tool_call(tag)
        schemas = {tool.name: self._schema(tool) for tool in parsing.tools}
        if model in (HY, KIMI):
            _describe_arguments(tag.format, schemas, HY if model == HY else "kimi_k3_xml")
        if model == HARMONY:
            _end_calls(tag.format)
        return tags.expression(tag.format, grammar, {**STYLES, HY: hy_style(suffix)})

    def _as_objects(self, parsing: ParsingParams, given: OutputConstraint, grammar: Grammar) -> str:
        """Write Llama's calls and a form that is JSON too as what one lexer can read: either begins with a brace."""
        calls = []
        for tool in parsing.tools:
            inner = tool_schema.moved({"type": "object", **(tool.parameters or {})}, "#/properties/parameters")
            properties = {"name": {"const": tool.name}, "parameters": inner}
            call = {
                "type": "object",
                "properties": properties,
                "required": [*properties],
                "additionalProperties": False,
            }
            text = whitespace.bounded(json.dumps(call), given.whitespace, is_compact=self._is_compact)
            calls.append(grammar.json(text))
        one = grammar.rule(" | ".join(calls))
        several = f"{one} ({tags.LLAMA_BETWEEN} {one})*" if parsing.is_parallel else one
        return choice([several, self._given(given, grammar)])

    def _schema(self, tool: Tool) -> dict[str, Any]:
        """Build the schema of a tool's arguments, with what the compiler is to make of it."""
        schema = {"type": "object", **(tool.parameters or {})}
        bounded: dict[str, Any] = json.loads(whitespace.bounded(json.dumps(schema), None, is_compact=self._is_compact))
        if not tool.is_strict:
            bounded[whitespace.KEY] = {"lenient": True, **bounded[whitespace.KEY]}
        return bounded

    def _enveloped(self, parsing: ParsingParams, grammar: Grammar, envelope: Envelope) -> str:
        calls = grammar.rule(" | ".join(self._call(tool, grammar, envelope) for tool in parsing.tools))
        several = calls
        if envelope.is_array:
            more = "" if not parsing.is_parallel else f" (/,[ ]?/ {calls})*"
            several = f'"[" {calls}{more} "]"'
        end = grammar.literal(envelope.end)
        one = grammar.rule(f"{several} {end}".rstrip())
        is_single = envelope.is_array or not parsing.is_parallel
        if parsing.choice != "auto":
            begin = grammar.literal(envelope.begin)
            first = f"{begin} {one}"
            return first if is_single else f"{first} ({tags.BETWEEN}? {first})*"
        marker = envelope.begin.split("\n")[0]
        excluded = (escape(marker),)
        call = f"{grammar.until(marker, excluded)} {grammar.literal(envelope.begin.removeprefix(marker))} {one}"
        text = grammar.free(excluded)
        return f"({call} | {text})" if is_single else f"({call})* {text}"

    def _call(self, tool: Tool, grammar: Grammar, envelope: Envelope) -> str:
        schema = grammar.json(json.dumps(self._schema(tool)))
        if not envelope.key:
            return f"{quote(tool.name)} {grammar.literal(envelope.middle)} {schema}"
        head = f'{{"name": {json.dumps(tool.name)}, "{envelope.key}": '
        return f'{quote(head)} {schema} "}}"'

    def _plain(self, parsing: ParsingParams) -> OutputConstraint:
        """Write required calls as an array, and the arguments of a named one. Raises BadField."""
        if not self._parser.supports_required_and_named:
            words = f"{parsing.choice} calls cannot be forced with the tool parser {self._name}; use auto or none"
            raise BadField([Problem("tool_choice", f"tool_choice is refused: {words}")])
        if parsing.choice == "named":
            return OutputConstraint("json", json.dumps(self._schema(parsing.tools[0])), PATH)
        grammar = Grammar(self._special)
        start = self._enveloped(parsing, grammar, Envelope("", is_array=True, key="parameters"))
        return OutputConstraint("grammar", grammar.text(start), PATH)

    def _alone(self, given: OutputConstraint | None) -> OutputConstraint | None:
        """Return the constraint of a text beside which nothing may be called."""
        if given is None or self._parser.structural_tag_model != HARMONY:
            return given
        grammar = Grammar(self._special)
        return OutputConstraint("grammar", grammar.text(self._formed(given, grammar)), given.path)

    def _formed(self, given: OutputConstraint, grammar: Grammar) -> str:
        """Write the form that the text must have, in harmony as its final message, which reasoning may precede."""
        text = self._given(given, grammar)
        if self._parser.structural_tag_model != HARMONY:
            return text
        is_json = given.kind in ("json", "json_object")
        kinds = (" json", " <|constrain|>json") if is_json else ("",)
        head = choice([grammar.literal(FINAL.format(kind)) for kind in kinds])
        begin, go_on = (grammar.literal(one) for one in ("<|channel|>analysis<|message|>", "<|start|>assistant"))
        end = grammar.literal("<|end|>")
        return f"({begin} {grammar.until('<|end|>', [escape('<|end|>')])} {go_on})? {head} {text} ({end} | )"

    def _given(self, given: OutputConstraint, grammar: Grammar) -> str:
        """Write the form that the text must have as an expression."""
        match given.kind, given.value:
            case "regex", str(pattern):
                return regex(pattern)
            case "choice", tuple(texts):
                return choice([quote(one) for one in texts])
            case "grammar", str(text):
                from llguidance.gbnf_to_lark import any_to_lark

                return grammar.rule(f"%lark {{\n{any_to_lark(text)}\n}}")
            case "json_object", _:
                schema = '{"type":"object"}'
            case _, schema:
                pass
        return grammar.json(whitespace.bounded(str(schema), given.whitespace, is_compact=self._is_compact))


def load(model: Model, *, is_compact: bool) -> ToolGrammars:
    """Build the constraints of a model's tools; vLLM is imported."""
    from vllm.tool_parsers import ToolParserManager

    parser = ToolParserManager.get_tool_parser(model.tool_parser)
    return ToolGrammars(model.tool_parser, parser, model.tokenizer, is_compact=is_compact)


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Collect the tokens that llguidance lets no text hold, by their text: more than those that are said to be special.

    A text that holds one could not come at all. Where its canonical tokens are the only way on, one of them is that
    token, and then llguidance finds that it does not fit.
    """
    from vllm.v1.structured_output.backend_guidance import GuidanceBackend

    vocabulary = tokenizer.get_vocab()
    build = GuidanceBackend._build_ll_tokenizer  # noqa: SLF001 how the engine builds it
    known = build(tokenizer, len(vocabulary))
    return {name: number for name, number in vocabulary.items() if known.is_special_token(number)}


def _envelope(name: str, tokenizer: Any) -> Envelope | None:
    vocabulary = tokenizer.get_vocab()
    if name == "mistral":
        if MISTRAL.begin not in vocabulary:
            return None
        if _is_old_mistral(tokenizer):
            return MISTRAL_ARRAY
        return MISTRAL if MISTRAL.middle in vocabulary else replace(MISTRAL, middle="")
    several = ENVELOPES.get(name, ())
    return next((one for one in several if one.begin in vocabulary), several[-1] if several else None)


def _is_old_mistral(tokenizer: Any) -> bool:
    from vllm.parser.mistral import _is_pre_v11_tokeniser

    return bool(_is_pre_v11_tokeniser(tokenizer))


def _describe_arguments(node: Any, schemas: Mapping[str, Any], style: str) -> None:
    """Put the arguments' schemas where vLLM describes them more loosely: in which order, which, how often."""
    from xgrammar.structural_tag import JSONSchemaFormat

    if node.type == "tag":
        for name, schema in schemas.items():
            described = JSONSchemaFormat.model_construct(type="json_schema", json_schema=schema, style=style)
            if style == HY and re.fullmatch(rf"<tool_call(:[^\s>]+)?>{re.escape(name)}", node.begin):
                node.content = described
                return
            if style != HY and f'call tool="{name}" index="' in node.begin:
                node.content.elements[-1] = described
                return
    for part in _parts(node):
        _describe_arguments(part, schemas, style)


def _end_calls(node: Any) -> None:
    """Let the calls of gpt-oss end as they do."""
    if node.type == "tag" and HARMONY_CALL in node.begin:
        node.end = HARMONY_ENDS
    for part in _parts(node):
        _end_calls(part)


def _parts(node: Any) -> list[Any]:
    several = [*getattr(node, "elements", ()), *getattr(node, "tags", ())]
    return [*several, node.content] if hasattr(node, "content") else several
