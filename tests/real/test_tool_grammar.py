"""Calls of tools as a grammar: what a random walk under it writes, vLLM's own parsers read as calls that fit."""

import functools
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
import pytest

from lmi_chat.engine.vllm.chat_request import chat_request
from lmi_chat.engine.vllm.structured_output.tool_grammar import ToolGrammars
from lmi_chat.errors import BadField
from lmi_chat.job import OutputConstraint, ParsingParams, Tool
from tests.support.schemas import random_schema
from tests.support.walks import Walker


class Family(NamedTuple):
    """What the tokenizers of a family have that the default model's has not, and what its parser takes for an end."""

    markers: tuple[str, ...]
    closers: tuple[str, ...] = ()
    prose: str = "Let me see. "


def tags(*names: str, suffix: str = "") -> tuple[str, ...]:
    """Opening and closing tags of these names."""
    return tuple(f"<{slash}{name}{suffix}>" for name in names for slash in ("", "/"))


DEEPSEEK = tuple(f"<｜tool▁{name}｜>" for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep"))
KIMI = tuple(
    f"<|tool_{name}|>"
    for name in ("calls_section_begin", "calls_section_end", "call_begin", "call_end", "call_argument_begin")
)
PLAMO = tuple(
    f"<|plamo:{name}:plamo|>"
    for name in (
        *("begin_tool_requests", "end_tool_requests", "begin_tool_request", "end_tool_request", "begin_tool_name"),
        *("end_tool_name", "begin_tool_arguments", "end_tool_arguments", "constrain", "msg", "tag"),
    )
)
DSML = "｜DSML｜"
QWEN = Family(tags("tool_call"), ("\n</parameter>", ">\n"))
GLM = Family(tags("tool_call", "arg_key", "arg_value"), ("</arg_value>", "</arg_key>"))
FAMILIES = {
    "hermes": Family(tags("tool_call")),
    "longcat": Family(tags("longcat_tool_call")),
    "llama3_json": Family(("<|python_tag|>",)),
    "kimi_k2": Family(KIMI, ("<|tool_call_argument_begin|>", "<|tool_calls_section_end|>")),
    "kimi_k3": Family(
        ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
        ("<|close|>argument<|sep|>", "<|close|>response<|sep|>", "<|close|>tools<|sep|>", '"<|sep|>'),
        prose="",
    ),
    "deepseek_v3": Family(DEEPSEEK, DEEPSEEK[1:2]),
    "deepseek_v31": Family(DEEPSEEK, DEEPSEEK[1:2]),
    "deepseek_v32": Family((DSML,), (f"</{DSML}parameter>", f"</{DSML}function_calls>")),
    "deepseek_v4": Family((DSML,), (f"</{DSML}parameter>", f"</{DSML}tool_calls>")),
    "deepseek_v41": Family((DSML,), (f"</{DSML} parameter>", f"</{DSML} calls>")),
    "qwen3_coder": QWEN,
    "step3p5": QWEN,
    "mimo": Family(tags("tool_call"), ("</parameter>",)),
    "glm47": GLM,
    "ling3": GLM,
    "minimax_m2": Family(tags("minimax:tool_call"), ("</parameter>", "</minimax:tool_call>")),
    "hy_v4": Family(
        tags("tool_calls", "tool_call", "arg_key", "arg_value", suffix=":ab"), ("</arg_value:ab>", "</tool_calls:ab>")
    ),
    "plamo3": Family(PLAMO),
    "mistral": Family(("[TOOL_CALLS]", "[ARGS]")),
}
HARMONY = Family(tuple(f"<|{one}|>" for one in ("start", "channel", "message", "constrain", "call", "end", "return")))
ENVELOPED = {
    "granite4": Family(tags("tool_call")),
    "jamba": Family(tags("tool_calls")),
}
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "unit": {"enum": ["c", "f"]},
        "deep": {"$ref": "#/$defs/deep"},
        "maybe": {"type": ["string", "null"]},
        "code": {"type": "string", "pattern": "^[a-z]{2}$"},
    },
    "required": ["city", "n", "unit", "deep", "maybe", "code"],
    "additionalProperties": False,
    "$defs": {
        "deep": {
            "type": "object",
            "properties": {"é": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
            "required": ["é"],
            "additionalProperties": False,
        }
    },
}
EMPTY = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = (Tool("get_weather", "The weather.", WEATHER, is_strict=True), Tool("no_op", "Nothing.", EMPTY))
FITS = {tool.name: jsonschema_rs.validator_for(dict(tool.parameters or {})) for tool in TOOLS}
SHORTER = {**WEATHER, "required": ["city"], "properties": {"city": {"type": "string"}}}
REQUIRED = ParsingParams(tools=TOOLS, choice="required")
NAMED = ParsingParams(tools=TOOLS, choice="named", named="get_weather")
ONE = ParsingParams(tools=TOOLS, choice="required", is_parallel=False)
AUTO = ParsingParams(tools=TOOLS, choice="auto")


class Bench:
    """A parser of vLLM, a tokenizer that has its markers, and our grammars for both."""

    def __init__(self, name: str, family: Family, folder: Path) -> None:
        from tokenizers import AddedToken, Tokenizer
        from transformers import PreTrainedTokenizerFast
        from vllm.parser.abstract_parser import DelegatingParser
        from vllm.tool_parsers import ToolParserManager

        plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
        thinking = tags("think", suffix=":ab" if name == "hy_v4" else "")
        plain.add_tokens([AddedToken(one, special=False, normalized=False) for one in (*family.markers, *thinking)])
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|im_end|>")
        vocabulary = self.tokenizer.get_vocab()
        self.tokenizer.get_vocab = lambda: vocabulary  # vLLM keeps it as well
        parser = ToolParserManager.get_tool_parser(name)
        self.grammars = ToolGrammars(name, parser, self.tokenizer)
        self.walker = Walker(self.tokenizer, family.closers)
        self._parser = type("Parser", (DelegatingParser,), {"tool_parser_cls": parser})

    def constraint(self, parsing: ParsingParams, given: OutputConstraint | None = None) -> OutputConstraint:
        """The constraint, which there must be."""
        constraint = self.grammars.constraint(parsing, given)
        assert constraint is not None
        return constraint

    def text(self, parsing: ParsingParams, seed: int, free: int) -> str:
        """What a random walk writes."""
        ids = self.walker.walk(self.constraint(parsing), random.Random(seed), free)
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def calls(self, parsing: ParsingParams, text: str) -> list[tuple[str, Any]]:
        """What vLLM reads in it."""
        request = chat_request(parsing)
        read = self._parser(self.tokenizer, request.tools).parse(
            text, request, enable_auto_tools=True, model_output_token_ids=self.walker.encode(text)
        )
        return [(call.name, json.loads(call.arguments)) for call in read[2] or ()]


@functools.cache
def _bench(name: str, folder: Path) -> Bench:
    return Bench(name, {**FAMILIES, **ENVELOPED, "openai": HARMONY}.get(name, Family(())), folder)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.timeout(300)
def test_what_a_model_that_knows_nothing_writes_is_read_as_calls_that_fit(name: str, model: Path) -> None:
    bench = _bench(name, model)
    for parsing in (REQUIRED, NAMED, ONE):
        for seed in range(3):
            text = bench.text(parsing, seed, 4 + 20 * seed)
            calls = bench.calls(parsing, text)
            assert calls, text
            assert len(calls) == 1 or parsing is REQUIRED, text
            for called, arguments in calls:
                assert FITS[called].is_valid(arguments), (text, arguments)


@pytest.mark.parametrize("name", [*FAMILIES, *ENVELOPED])
@pytest.mark.timeout(300)
def test_under_auto_a_call_that_is_begun_must_fit(name: str, model: Path) -> None:
    bench, family = _bench(name, model), {**FAMILIES, **ENVELOPED}[name]
    auto = bench.constraint(AUTO)
    call = bench.text(NAMED, 3, 30) if name in FAMILIES else ENVELOPES[name]
    loose = (Tool("get_weather", "", SHORTER, is_strict=True),)
    missing = bench.text(ParsingParams(tools=loose, choice="named", named="get_weather"), 3, 30)
    assert bench.walker.accepts(auto, family.prose + call), call
    assert not bench.walker.accepts(auto, family.prose + call.replace("get_weather", "get_planets"))
    if name in FAMILIES:
        assert not bench.walker.accepts(auto, family.prose + missing), missing
        required = bench.constraint(REQUIRED)
        assert bench.walker.accepts(required, call)
        assert not bench.walker.accepts(required, "Let me see. " + call) or not family.prose
        assert not bench.walker.accepts(required, call.replace("get_weather", "get_planets"))


ARGUMENTS = '{"city":"Oslo","n":1,"unit":"c","deep":{"é":[]},"maybe":null,"code":"no"}'
ENVELOPES = {
    "granite4": f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>',
    "jamba": f'<tool_calls>[{{"name": "get_weather", "arguments": {ARGUMENTS}}}]</tool_calls>',
}


def test_calls_of_harmony_stand_in_the_channel_of_commentary_after_what_reasons(model: Path) -> None:
    bench = _bench("openai", model)
    reasons = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    call = "<|channel|>commentary to=functions.no_op <|constrain|>json<|message|>{}<|call|>"
    final = "<|channel|>final<|message|>Hello."
    for parsing, right, wrong in ((REQUIRED, (call,), (final, "")), (AUTO, (call, final), ("",))):
        constraint = bench.constraint(parsing)
        for answer in right:
            assert bench.walker.accepts(constraint, answer), answer
            assert bench.walker.accepts(constraint, reasons + answer), answer
        for answer in (*wrong, call.replace("no_op", "other"), call.replace("{}", '{"a":1}')):
            assert not bench.walker.accepts(constraint, answer), answer


def test_without_a_form_of_its_own_a_required_call_is_an_array_and_a_named_one_its_arguments(model: Path) -> None:
    bench = _bench("pythonic", model)
    for parsing in (REQUIRED, ONE):
        text = bench.text(parsing, 1, 25)
        assert [set(one) for one in json.loads(text)] == [{"name", "parameters"}] * len(json.loads(text))
        assert all(FITS[name].is_valid(arguments) for name, arguments in bench.calls(parsing, text))
    two = '[{"name": "no_op", "parameters": {}}, {"name": "no_op", "parameters": {}}]'
    assert bench.walker.accepts(bench.constraint(REQUIRED), two)
    assert not bench.walker.accepts(bench.constraint(ONE), two)
    assert not bench.walker.accepts(bench.constraint(REQUIRED), "[]")
    [(name, arguments)] = bench.calls(NAMED, bench.text(NAMED, 2, 25))
    assert name == "get_weather"
    assert FITS[name].is_valid(arguments)


def test_nothing_is_forced_where_nothing_asks_for_it(model: Path) -> None:
    grammars = _bench("hermes", model).grammars
    free = ParsingParams(tools=TOOLS[1:], choice="auto")
    given = OutputConstraint("json_object", "", "response_format")
    assert grammars.constraint(free, None) is None
    formed = grammars.constraint(replace(free, is_formed=True), None)
    assert formed
    assert f'"{TOOLS[1].name}' in formed.value
    assert grammars.constraint(ParsingParams(tools=TOOLS, choice="none"), given) is given
    assert grammars.constraint(ParsingParams(), given) is given
    assert _bench("pythonic", model).grammars.constraint(AUTO, None) is None


def test_what_is_asked_for_twice_is_made_once_and_never_of_another_request(model: Path) -> None:
    grammars = _bench("hermes", model).grammars
    assert grammars.constraint(ONE, None) is grammars.constraint(ONE, None)
    assert grammars.constraint(ONE, None) != grammars.constraint(NAMED, None)
    given = OutputConstraint("regex", "a+", "regex")
    free, formed = grammars.constraint(AUTO, None), grammars.constraint(AUTO, given)
    assert free != formed == grammars.constraint(AUTO, given)


def test_what_the_compiler_cannot_do_is_passed_over_for_a_tool_that_is_not_strict(model: Path) -> None:
    bench = _bench("hermes", model)
    odd = {"type": "object", "properties": {"a": {"type": "string", "format": "odd"}}, "required": ["a"]}
    for is_strict in (False, True):
        parsing = ParsingParams(tools=(Tool("f", "", odd, is_strict),), choice="required")
        if is_strict:
            with pytest.raises(AssertionError, match="odd"):
                bench.walker.matcher(bench.constraint(parsing))
        else:
            assert bench.calls(parsing, bench.text(parsing, 1, 30))[0][0] == "f"


def test_a_parser_that_reads_no_forced_call_refuses_the_choice(model: Path) -> None:
    from vllm.tool_parsers import ToolParserManager

    tokenizer = _bench("pythonic", model).tokenizer
    grammars = ToolGrammars("gemma4", ToolParserManager.get_tool_parser("gemma4"), tokenizer)
    with pytest.raises(BadField, match="required calls cannot be forced with the tool parser gemma4; use auto or none"):
        grammars.constraint(REQUIRED, None)


GIVEN = {
    "json": OutputConstraint("json", '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}', "f"),
    "json_object": OutputConstraint("json_object", "", "response_format"),
    "regex": OutputConstraint("regex", "[a-c]{2}/x", "regex"),
    "choice": OutputConstraint("choice", ("yes", "no"), "choice"),
    "ebnf": OutputConstraint("grammar", 'root ::= "a" x\nx ::= "b"', "grammar"),
    "lark": OutputConstraint("grammar", 'start: "a" x\nx: "b"', "grammar"),
}
ANSWERS = {"json": '{"a": 1}', "json_object": '{"b": {}}', "regex": "ab/x", "choice": "no", "ebnf": "ab", "lark": "ab"}


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("name", ["hermes", "llama3_json", "qwen3_coder"])
def test_an_answer_is_calls_or_has_the_given_form(name: str, kind: str, model: Path) -> None:
    bench = _bench(name, model)
    tools = ParsingParams(tools=TOOLS[1:], choice="auto")
    constraint = bench.constraint(tools, GIVEN[kind])
    call = bench.text(ParsingParams(tools=TOOLS[1:], choice="required", is_parallel=False), 1, 8)
    assert bench.walker.accepts(constraint, ANSWERS[kind])
    assert bench.walker.accepts(constraint, call), call
    assert not bench.walker.accepts(constraint, "Hello")
    required = bench.constraint(ParsingParams(tools=TOOLS[1:], choice="required"), GIVEN[kind])
    assert not bench.walker.accepts(required, ANSWERS[kind]), "the choice wins"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_10000_random_schemas_are_kept_by_the_grammar_alone(model: Path) -> None:
    benches = [(name, _bench(name, model)) for name in ("hermes", "pythonic", "deepseek_v31", "glm47", "qwen3_coder")]
    chance, counts = random.Random(14), Counter[str]()
    for number in range(10_000):
        name, bench = benches[number % len(benches)]
        schema = random_schema(chance, is_flat=name in ("glm47", "qwen3_coder"))
        tools = (Tool("f", "", schema, is_strict=True),)
        parsing = ParsingParams(tools=tools, choice=chance.choice(("named", "required")), named="f", is_parallel=False)
        text = bench.text(parsing, number, chance.randrange(24))
        [(called, arguments)] = bench.calls(parsing, text)
        assert called == "f"
        assert jsonschema_rs.validator_for(schema).is_valid(arguments), (name, schema, text, arguments)
        counts[name] += 1
    print(f"\nanswers that fit, of random walks over the allowed tokens: {dict(counts)}")
    assert counts.total() == 10_000
