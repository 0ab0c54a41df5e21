"""Choose the parsers of tool calls and of reasoning by the model's chat template, its type and its tokenizer.

What the template writes comes first, because a fine-tune keeps it; the model's type tells forms apart that look the
same, and stands alone only where a template reads tools and writes none of the forms. Needs no engine.
"""

import ast
import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

Kind = Literal["tool", "reasoning"]
KEYS: Mapping[Kind, str] = {"tool": "tool_call_parser", "reasoning": "reasoning_parser"}
PLACES: Mapping[Kind, tuple[str, str]] = {
    "tool": ("tool_parsers", "_TOOL_PARSERS_TO_REGISTER"),
    "reasoning": ("reasoning", "_REASONING_PARSERS_TO_REGISTER"),
}
COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
BLOCK = re.compile(r"\{([%{])(.*?)[%}]\}", re.DOTALL)
QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
READS_TOOLS = re.compile(r"(?<![\w.])tools\b(?!\s*=[^=])")
MARKUP = re.compile(r"\]<\]minimax\[>\[|<[^<>]*>|\[\w\S*")
"""In a form's words, what Markdown would take for its own."""
NEAR, MOST_NEAR = 0.6, 3


@dataclass(frozen=True, slots=True)
class Form:
    """How one parser's text is recognised: the template has all `marks` and none of `lacks`.

    `says`: the form in words, where its marks do not say it; `needs`: tokens without which it means nothing.
    """

    parser: str
    marks: tuple[str, ...]
    says: str = ""
    lacks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def fits(self, template: str) -> bool:
        """Whether a template writes this form."""
        return all(mark in template for mark in self.marks) and not any(mark in template for mark in self.lacks)

    @property
    def shown(self) -> str:
        """The form in words."""
        return self.says or " and ".join(self.marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that write alike. `types`: model types or architectures that it is bound to; none: any model.

    `modes`: tokenizers whose own code renders the chats, or gpt-oss's, so that no template is read.
    """

    name: str
    tool: Form | None = None
    reasoning: Form | None = None
    types: frozenset[str] = field(default_factory=frozenset)
    modes: frozenset[str] = field(default_factory=frozenset)

    def form(self, kind: Kind) -> Form | None:
        """Return the form of its calls or of its reasoning."""
        return self.tool if kind == "tool" else self.reasoning


@dataclass(frozen=True, slots=True)
class Pick:
    """A parser's name, "" for none, and why it is this one."""

    parser: str
    why: str


def _thinks(parser: str, *more: str, says: str = "<think>", lacks: tuple[str, ...] = ()) -> Form:
    return Form(parser, ("</think>", *more), says, lacks, ("<think>", "</think>"))


def _any(*names: str) -> frozenset[str]:
    return frozenset(names)


GRANITE = _any("granite", "granite_swa", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared")
QWEN_VL = _any("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
XML = Form("qwen3_coder", ("<tool_call>", "<function="), "<tool_call> with <function=…>")
JSON = Form("hermes", ("<tool_call>",), "<tool_call> with JSON")
ARGUMENTS = ("<tool_call>", "<arg_key>")
ARGUMENTS_SAID = "<tool_call> with <arg_key>"
SWITCHED = _thinks("qwen3", "enable_thinking", says="<think> and enable_thinking")
HOLO = _thinks("holo2", "thinking", says="<think> and thinking", lacks=("enable_thinking",))
FAMILIES = (
    # forms that only one family writes
    Family(
        name="gpt-oss",
        tool=Form("openai", ("<|channel|>", "commentary"), "the channels of harmony"),
        reasoning=Form("openai_gptoss", ("<|channel|>", "analysis"), "the channels of harmony"),
        types=_any("gpt_oss"),
        modes=_any("gpt_oss"),
    ),
    Family(
        name="Muse Glimmer",
        tool=Form("muse_glimmer", ("<atem:function_calls>",)),
        reasoning=Form("muse_glimmer", ("to=self",)),
        types=_any("muse_glimmer", "muse_glimmer_text"),
    ),
    Family(
        name="K2 Horizon",
        tool=Form("k2_horizon", ("<ifm|tool_call",), "<ifm|tool_calls>"),
        reasoning=Form("k2_horizon", ("<ifm|think",), "<ifm|think>", needs=("<ifm|think>",)),
    ),
    Family(
        name="Kimi K3",
        tool=Form("kimi_k3", ("<|open|>", "<|sep|>")),
        reasoning=Form("kimi_k3", ("<|open|>", "<|sep|>")),
        modes=_any("kimi_k3"),
    ),
    Family(
        name="Kimi K2, K2 Thinking, K2.5",
        tool=Form("kimi_k2", ("<|tool_calls_section_begin|>",)),
        reasoning=_thinks("kimi_k2", "<|tool_calls_section_begin|>"),
    ),
    Family(
        name="DeepSeek V4.1",
        tool=Form("deepseek_v41", ("｜DSML｜", " calls>"), "<｜DSML｜ calls>"),
        reasoning=_thinks("deepseek_v41", "｜DSML｜", " calls>"),
        modes=_any("deepseek_v41"),
    ),
    Family(
        name="DeepSeek V4",
        tool=Form("deepseek_v4", ("｜DSML｜", "tool_calls>"), "<｜DSML｜tool_calls>", ("function_calls>",)),
        reasoning=_thinks("deepseek_v4", "｜DSML｜", lacks=("function_calls>",)),
        modes=_any("deepseek_v4"),
    ),
    Family(
        name="DeepSeek V3.2",
        tool=Form("deepseek_v32", ("｜DSML｜", "function_calls>"), "<｜DSML｜function_calls>"),
        reasoning=_thinks("deepseek_v3", "｜DSML｜"),
        modes=_any("deepseek_v32"),
    ),
    Family(
        name="DeepSeek V3, V3-0324, R1-0528",
        tool=Form("deepseek_v3", ("<｜tool▁calls▁begin｜>", "```json"), "<｜tool▁calls▁begin｜> with JSON in a fence"),
        reasoning=_thinks("deepseek_r1", "```json", "<｜tool▁calls▁begin｜>"),
    ),
    Family(
        name="DeepSeek V3.1",
        tool=Form("deepseek_v31", ("<｜tool▁calls▁begin｜>",), "<｜tool▁calls▁begin｜> without a fence"),
        reasoning=_thinks("deepseek_v3", "<｜tool▁calls▁begin｜>"),
    ),
    Family(
        name="Step 3",
        tool=Form("step3", ("<｜tool_calls_begin｜>",)),
        reasoning=_thinks("step3", "<｜tool_calls_begin｜>"),
    ),
    Family(
        name="MiniMax M3",
        tool=Form("minimax_m3", ("]<]minimax[>[",)),
        reasoning=Form("minimax_m3", ("<mm:think>",), needs=("<mm:think>", "</mm:think>")),
    ),
    Family(
        name="MiniMax M2",
        tool=Form("minimax_m2", ("<minimax:tool_call>",)),
        reasoning=_thinks("minimax_m2", "<minimax:tool_call>"),
    ),
    Family(
        name="Seed-OSS",
        tool=Form("seed_oss", ("<seed:tool_call>",)),
        reasoning=Form("seed_oss", ("<seed:think>",), needs=("<seed:think>", "</seed:think>")),
    ),
    Family(name="LongCat-Flash", tool=Form("longcat", ("<longcat_tool_call>",))),
    Family(name="dots", tool=Form("dots", ("<dots_function_call>",))),
    Family(
        name="PLaMo 3",
        tool=Form("plamo3", ("<|plamo:begin_tool_request",), "<|plamo:begin_tool_requests:plamo|>"),
        reasoning=Form("plamo3", ("<|plamo:begin_think:plamo|>",), needs=("<|plamo:begin_think:plamo|>",)),
    ),
    Family(
        name="Inkling",
        tool=Form("inkling", ("<|content_invoke_tool_json|>",)),
        reasoning=Form("inkling", ("<|content_thinking|>",), needs=("<|content_thinking|>",)),
        modes=_any("inkling"),
    ),
    Family(
        name="Gemma 4",
        tool=Form("gemma4", ("<|tool_call>",)),
        reasoning=Form("gemma4", ("<|channel>",), needs=("<|channel>", "<channel|>")),
    ),
    Family(name="FunctionGemma", tool=Form("functiongemma", ("<start_function_call>",))),
    Family(name="Apertus", tool=Form("apertus", ("<|tools_prefix|>",))),
    Family(name="LFM2, LFM2.5", tool=Form("lfm2", ("<|tool_call_start|>",))),
    Family(name="InternLM 2, 3", tool=Form("internlm", ("<|plugin|>",))),
    Family(
        name="GigaChat 3",
        tool=Form("gigachat3", ("function call", "<|role_sep|>"), "function call<|role_sep|>"),
    ),
    Family(name="GigaChat 3.1", tool=Form("gigachat3", ("<|function_call|>",))),
    Family(
        name="Command A+ (Cohere 4)",
        tool=Form("cohere_command4", ("<|START_ACTION|>", "<|START_TEXT|>")),
        reasoning=Form("cohere_command4", ("<|START_THINKING|>", "<|START_TEXT|>"), needs=("<|START_THINKING|>",)),
        modes=_any("cohere"),
    ),
    Family(
        name="Command A, R7B (Cohere 3)",
        tool=Form("cohere_command3", ("<|START_ACTION|>",)),
        reasoning=Form("cohere_command3", ("<|START_THINKING|>",), needs=("<|START_THINKING|>",)),
    ),
    Family(
        name="Mistral, Devstral, Magistral",
        tool=Form("mistral", ("[TOOL_CALLS]",), needs=("[TOOL_CALLS]",)),
        reasoning=Form("mistral", ("[THINK]",), needs=("[THINK]", "[/THINK]")),
        modes=_any("mistral"),
    ),
    Family(name="xLAM 2", tool=Form("xlam", ("make calls in a single JSON array",), "calls in a single JSON array")),
    Family(name="Phi-4-mini", tool=Form("phi4_mini_json", ("functools[",))),
    Family(
        name="OLMo 3",
        tool=Form("olmo3", ("<function_calls>",)),
        reasoning=Form("olmo3", ("<think>",)),  # in ordinary tokens
        types=_any("olmo2", "olmo3", "olmo_hybrid", "flex_olmo"),
    ),
    Family(name="forms of OLMo 3 in others", tool=Form("olmo3", ("<function_calls>",))),
    Family(name="Granite 20B function calling", tool=Form("granite-20b-fc", ("<function_call>",))),
    Family(
        name="Granite 3",
        tool=Form("granite", ("<|tool_call|>",)),
        reasoning=Form("granite", ("Here is my thought process:",), "“Here is my thought process:”"),
    ),
    # forms that several families write: the model's type tells whose it is
    Family(
        name="Hunyuan A13B",
        tool=Form("hunyuan_a13b", ("<tool_calls>",)),
        reasoning=Form("hunyuan_a13b", ("<think>",)),
        types=_any("hunyuan", "hunyuan_v1_moe", "hunyuan_v1_dense"),
    ),
    Family(
        name="Hunyuan 3 (HY V3)",
        tool=Form("hy_v3", ("tool_calls", "arg_key"), "<tool_calls> with <arg_key>"),
        reasoning=Form("hy_v3", ("think",), "<think>"),
        types=_any("hy_v3"),
    ),
    Family(
        name="Hunyuan 4 (HY V4)",
        tool=Form("hy_v4", ("tool_calls", "arg_key"), "<tool_calls> with <arg_key>"),
        reasoning=Form("hy_v4", ("think",), "<think>"),
        types=_any("hy_v4"),
    ),
    Family(name="Jamba", tool=Form("jamba", ("<tool_calls>",)), types=_any("jamba")),
    Family(
        name="Ling 3, Ring 3",
        tool=Form("ling3", ARGUMENTS, ARGUMENTS_SAID),
        reasoning=_thinks("ling3", "<arg_key>"),
        types=_any("bailing_hybrid", "bailing_moe_v3", "bailing_moe_v3_vl", "BailingMoeV3ForCausalLM"),
    ),
    Family(
        name="Laguna (Poolside)",
        tool=Form("poolside_v1", ARGUMENTS, ARGUMENTS_SAID),
        reasoning=_thinks("poolside_v1"),
        types=_any("laguna"),
    ),
    Family(
        name="GLM 4.5, 4.6",
        tool=Form("glm45", (*ARGUMENTS, "/nothink"), f"{ARGUMENTS_SAID} and /nothink"),
        reasoning=_thinks("glm45", "<arg_key>", "/nothink"),
    ),
    Family(name="GLM 4.7, 5", tool=Form("glm47", ARGUMENTS, ARGUMENTS_SAID), reasoning=_thinks("glm47", "<arg_key>")),
    Family(
        name="Step 3.5, 3.7",
        tool=Form("step3p5", XML.marks, XML.says),
        reasoning=_thinks("step3p5"),
        types=_any("step3p5", "step3p7", "step3p5_text"),
    ),
    Family(
        name="MiMo",
        tool=Form("mimo", XML.marks, XML.says),
        reasoning=_thinks("mimo"),
        types=_any("mimo", "mimo_v2", "mimo_v2_flash", "mimo_v2_omni", "mimovl"),
    ),
    Family(
        name="Nemotron 3",
        tool=Form(XML.parser, XML.marks, XML.says, ("<TOOLCALL>",)),
        reasoning=_thinks("nemotron_v3", "<function="),
        types=_any("nemotron_h", "nemotron_h_omni", "NemotronHForCausalLM", "NemotronHPuzzleForCausalLM"),
    ),
    Family(
        name="MiniCPM-V 4.6, 4.7",
        tool=XML,
        reasoning=_thinks("minicpmv"),
        types=_any("minicpmv", "minicpmv4_6", "minicpmv4_7"),
    ),
    Family(name="Granite 4.2", tool=XML, reasoning=_thinks("granite_thinking_parser", "<function="), types=GRANITE),
    Family(name="Granite 4", tool=Form("granite4", JSON.marks, JSON.says), types=GRANITE),
    Family(
        name="ERNIE 4.5",
        tool=Form("ernie45", JSON.marks, JSON.says),
        reasoning=_thinks("ernie45"),
        types=_any("ernie4_5", "ernie4_5_moe", "ernie4_5_moe_vl", "ernie4_5_vl_moe"),
    ),
    Family(name="Holo 2", tool=JSON, reasoning=HOLO, types=QWEN_VL),
    # forms that anybody may write
    Family(name="MiniCPM 5", tool=Form("minicpm5", ("<function name=", "<param name="), "<function name=…>")),
    Family(
        name="Qwen3-Coder, Qwen3.5, Qwen3.6",
        tool=XML,
        reasoning=SWITCHED,
    ),
    Family(name="Qwen3, SmolLM3, EXAONE 4", tool=JSON, reasoning=SWITCHED),
    Family(name="QwQ, DeepSeek R1 distilled", tool=JSON, reasoning=_thinks("deepseek_r1")),
    Family(name="Qwen2.5, Hermes 2 and 3", tool=JSON),
    Family(
        name="Llama 4, in Python",
        tool=Form("llama4_pythonic", ("[func_name1(",)),
        types=_any("llama4", "llama4_text"),
    ),
    Family(
        name="Llama 4, in JSON",
        tool=Form("llama4_json", ('"parameters":', '"name":'), "JSON with name and parameters"),
        types=_any("llama4", "llama4_text"),
    ),
    Family(name="Llama 3.2, Gemma 3 and others, in Python", tool=Form("pythonic", ("[func_name1(",))),
    Family(name="Llama 3.1, 3.3", tool=Form("llama3_json", ("<|python_tag|>",), needs=("<|python_tag|>",))),
    Family(
        name="Llama 3.2, in JSON",
        tool=Form(
            "llama3_json",
            ('"parameters":', '{"name":'),
            "JSON with name and parameters",
            needs=("<|python_tag|>", "<|eot_id|>"),
        ),
    ),
)
"""The first that fits counts, for calls and for reasoning apart."""
BY_NAME: Mapping[Kind, Mapping[str, str]] = {
    "tool": {
        "hf": "reads a response_template that few checkpoints have",
        "qwen3_json": "another name of hermes",
        "qwen3_xml": "another name of qwen3_coder",
    },
    "reasoning": {
        "hf": "reads a response_template that few checkpoints have",
        "minimax_m2_append_think": "leaves the reasoning in the content",
    },
}
"""Parsers that are never chosen, with the reason."""


def choose(
    kind: Kind, config: Mapping[str, Any], template: str | None, vocabulary: Collection[str], mode: str = ""
) -> Pick:
    """Choose the parser of calls or of reasoning.

    `config` is the model's config.json, `template` its chat template (None: it has none), `vocabulary` the spellings
    of its tokens, `mode` that of a tokenizer whose own code renders the chats.
    """
    if mode:
        return _by_mode(kind, vocabulary, mode)
    if template is None:
        return Pick("", "the model has no chat template")
    text, types = COMMENT.sub("", template), _types(config)
    if kind == "tool" and not reads_tools(text):
        return Pick("", "the chat template reads no tools")
    fitting = ((family, form) for family, form in _forms(kind) if not family.types or family.types & types)
    for family, form in fitting:
        if form.fits(text):
            bound = f", the model is of type {min(family.types & types)}" if family.types else ""
            return _if_spelt(form, vocabulary, f"the chat template writes {form.shown}{bound}")
    if kind == "reasoning":
        return Pick("", "the chat template writes none")
    for family, form in _forms(kind):
        if family.types & types and not any(mark in text for mark in form.lacks):
            return _if_spelt(form, vocabulary, f"the model is of type {min(family.types & types)}")
    return Pick("", "the chat template writes calls in no known form")


def _by_mode(kind: Kind, vocabulary: Collection[str], mode: str) -> Pick:
    """Choose by the code that renders the chats; it can do more than the model may, whose tokens tell what it does."""
    for family, form in _forms(kind):
        if mode in family.modes:
            return _if_spelt(form, vocabulary, f"chats are rendered by {mode}'s own code")
    return Pick("", f"{mode}'s code renders the chats")


def _if_spelt(form: Form, vocabulary: Collection[str], why: str) -> Pick:
    missing = next((token for token in form.needs if token not in vocabulary), "")
    if missing:
        return Pick("", f"{why}, but the tokenizer has no token {missing}")
    return Pick(form.parser, why)


def _forms(kind: Kind) -> Iterator[tuple[Family, Form]]:
    for family in FAMILIES:
        form = family.form(kind)
        if form:
            yield family, form


def _types(config: Mapping[str, Any]) -> frozenset[str]:
    """Collect the model's type and architectures, the language model's inside it too."""
    inner = config.get("text_config")
    configs = [config, *([inner] if isinstance(inner, Mapping) else [])]
    names = [name for one in configs for name in (one.get("model_type"), *(one.get("architectures") or ()))]
    return frozenset(name for name in names if isinstance(name, str))


def reads_tools(template: str) -> bool:
    """Whether a chat template reads the variable `tools`, by its text."""
    return any(READS_TOOLS.search(QUOTED.sub("''", block)) for _, block in BLOCK.findall(template))


def known(kind: Kind) -> frozenset[str]:
    """Read the names of the engine's own parsers from its source; empty where it is not installed."""
    folder, table = PLACES[kind]
    found = importlib.util.find_spec("vllm")
    source = Path(found.origin).parent / folder / "__init__.py" if found and found.origin else None
    if source is None or not source.is_file():
        return frozenset()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and ast.unparse(node.targets[0]) == table:
            return frozenset(ast.literal_eval(key) for key in node.value.keys if key)
    return frozenset()


def wrong_name(key: str, name: str, names: Collection[str]) -> str:
    """Say that a setting names no parser, with the nearest ones."""
    near = get_close_matches(name.lower(), sorted(names), MOST_NEAR, NEAR)
    hint = f"the nearest are {', '.join(near)}" if len(near) > 1 else f"the nearest is {''.join(near)}"
    return f"{key} must be auto, none or a parser of the engine, got {name!r}; {hint if near else 'none is near'}"


def table() -> str:
    """Write docs/tools.md's table of families, in Markdown."""
    rows = ["| models | `tool_call_parser` | `reasoning_parser` | recognised by |", "|---|---|---|---|"]
    for family in FAMILIES:
        forms = [form for form in (family.tool, family.reasoning) if form]
        marks = dict.fromkeys(form.shown for form in forms)
        types = f", of type {', '.join(f'`{name}`' for name in sorted(family.types))}" if family.types else ""
        by = MARKUP.sub(r"`\g<0>`", "; ".join(marks)).replace("|", "\\|") + types
        names = [f"`{form.parser}`" if form else "" for form in (family.tool, family.reasoning)]
        rows.append(f"| {family.name} | {' | '.join(names)} | {by} |")
    for kind, names_of in BY_NAME.items():
        reasons = ", ".join(f"`{name}` ({why})" for name, why in names_of.items())
        rows += ["", f"Never chosen as `{KEYS[kind]}`, only by name: {reasons}."]
    return "\n".join(rows)
