"""How models write calls and reasoning, by the names of vLLM's parsers; the test of the law asks all of them."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from lmi_chat.engine.vllm.parsing import held_back

Call = tuple[str, dict[str, Any]]
Write = Callable[[Sequence[Call]], str]


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def listed(calls: Sequence[Call], arguments: str = "arguments") -> str:
    return json.dumps([{"name": name, arguments: values} for name, values in calls], ensure_ascii=False)


def each(begin: str, end: str, between: str = "\n", arguments: str = "arguments") -> Write:
    def write(calls: Sequence[Call]) -> str:
        return between.join(begin + listed([call], arguments)[1:-1] + end for call in calls)

    return write


def around(begin: str, end: str, write: Write = listed) -> Write:
    return lambda calls: begin + write(calls) + end


def pythonic(between: str = ", ") -> Write:
    def write(calls: Sequence[Call]) -> str:
        return between.join(
            f"{name}({', '.join(f'{key}={value!r}' for key, value in values.items())})" for name, values in calls
        )

    return write


def qwen(begin: str = "<tool_call>", end: str = "</tool_call>", newline: str = "\n") -> Write:
    def write(calls: Sequence[Call]) -> str:
        return "\n".join(
            f"{begin}\n<function={name}>\n"
            + "".join(
                f"<parameter={key}>{newline}{text_of(value)}{newline}</parameter>\n" for key, value in values.items()
            )
            + f"</function>\n{end}"
            for name, values in calls
        )

    return write


def invoked(begin: str, end: str, mark: str = "", name_end: str = '">', typed: bool = False) -> Write:  # noqa: FBT001 FBT002
    def parameter(key: str, value: Any) -> str:
        kind = f'" string="{str(isinstance(value, str)).lower()}{name_end}' if typed else name_end
        return f'<{mark}parameter name="{key}{kind}{text_of(value)}</{mark}parameter>\n'

    def write(calls: Sequence[Call]) -> str:
        return (
            begin
            + "\n".join(
                f'<{mark}invoke name="{name}">\n'
                + "".join(parameter(key, value) for key, value in values.items())
                + f"</{mark}invoke>"
                for name, values in calls
            )
            + end
        )

    return write


def glm(tag: Callable[[str], str] = lambda name: name, separator: str = "\n", newline: str = "\n") -> Write:
    def write(calls: Sequence[Call]) -> str:
        return "\n".join(
            f"<{tag('tool_call')}>{name}{separator}"
            + "".join(
                f"<{tag('arg_key')}>{key}</{tag('arg_key')}>{newline}<{tag('arg_value')}>{text_of(value)}</{tag('arg_value')}>{newline}"
                for key, value in values.items()
            )
            + f"</{tag('tool_call')}>"
            for name, values in calls
        )

    return write


def gemma(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{gemma(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(gemma, value)) + "]"
    return json.dumps(value)


def minimax(value: Any) -> str:
    mark = "]<]minimax[>["
    if isinstance(value, dict):
        return "".join(f"{mark}<{key}>{minimax(one)}{mark}</{key}>" for key, one in value.items())
    if isinstance(value, list):
        return "".join(f"{mark}<item>{minimax(one)}{mark}</item>" for one in value)
    return text_of(value)


def mapped(write: Callable[[str, dict[str, Any]], str], between: str = "") -> Write:
    return lambda calls: between.join(write(name, values) for name, values in calls)


def escaped(name: str, values: dict[str, Any]) -> str:
    inner = ",".join(f"{key}:<escape>{text_of(value)}<escape>" for key, value in values.items())
    return f"<start_function_call>call:{name}{{{inner}}}<end_function_call>"


def kimi3(calls: Sequence[Call]) -> str:
    kinds = {str: "string", dict: "object", list: "array", int: "number", bool: "boolean"}
    return (
        "<|open|>tools<|sep|>"
        + "".join(
            f'<|open|>call tool="{name}" index="{place}"<|sep|>'
            + "".join(
                f'<|open|>argument key="{key}" type="{kinds[type(value)]}"<|sep|>'
                f"{text_of(value)}<|close|>argument<|sep|>"
                for key, value in values.items()
            )
            + "<|close|>call<|sep|>"
            for place, (name, values) in enumerate(calls, 1)
        )
        + "<|close|>tools<|sep|>"
    )


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


DSML = "｜DSML｜"
DEEPSEEK = "<｜tool▁{0}▁{1}｜>".format
PLAMO = "<|plamo:{0}:plamo|>".format
IFM = "ifm|{0}".format
GEMMA = mapped(lambda name, values: f"<|tool_call>call:{name}{gemma(values)}<tool_call|>")

TOOLS: dict[str, Write] = {
    "apertus": lambda calls: f"<|tools_prefix|>{dumped([{name: values} for name, values in calls])}<|tools_suffix|>",
    "deepseek_v3": around(
        DEEPSEEK("calls", "begin"),
        DEEPSEEK("calls", "end"),
        mapped(
            lambda name, values: (
                f"{DEEPSEEK('call', 'begin')}function<｜tool▁sep｜>{name}\n```json\n{dumped(values)}\n```"
                f"{DEEPSEEK('call', 'end')}"
            ),
            "\n",
        ),
    ),
    "deepseek_v31": around(
        DEEPSEEK("calls", "begin"),
        DEEPSEEK("calls", "end"),
        mapped(
            lambda name, values: (
                f"{DEEPSEEK('call', 'begin')}{name}<｜tool▁sep｜>{dumped(values)}{DEEPSEEK('call', 'end')}"
            )
        ),
    ),
    "deepseek_v32": invoked(f"<{DSML}function_calls>\n", f"\n</{DSML}function_calls>", DSML, typed=True),
    "deepseek_v4": invoked(f"<{DSML}tool_calls>\n", f"\n</{DSML}tool_calls>", DSML, typed=True),
    "deepseek_v41": invoked(f"<{DSML} calls>\n", f"\n</{DSML} calls>", f"{DSML} ", typed=True),
    "dots": invoked("<dots_function_call>\n", "\n</dots_function_call>"),
    "ernie45": each("<tool_call>\n", "\n</tool_call>\n"),
    "functiongemma": mapped(escaped),
    "gemma4": GEMMA,
    "gigachat3": each("<|function_call|>", ""),
    "glm45": glm(),
    "glm47": glm(separator=""),
    "granite": around("<|tool_call|>", ""),
    "granite-20b-fc": each("<function_call> ", "", ""),
    "granite4": each("<tool_call>\n", "\n</tool_call>"),
    "hermes": each("<tool_call>\n", "\n</tool_call>"),
    "hunyuan_a13b": around("<tool_calls>", "</tool_calls>"),
    "hy_v3": around("<tool_calls>\n", "\n</tool_calls>", glm(separator="<tool_sep>\n")),
    "hy_v4": around("<tool_calls>\n", "\n</tool_calls>", glm(separator="", newline="")),
    "inkling": mapped(
        lambda name, values: (
            f"<|message_model|><|content_invoke_tool_json|>{dumped({'name': name, 'args': values})}<|end_message|>"
        )
    ),
    "internlm": each("<|action_start|><|plugin|>\n", "<|action_end|>", "", "parameters"),
    "jamba": around("<tool_calls>", "</tool_calls>"),
    "k2_horizon": around("<ifm|tool_calls>", "</ifm|tool_calls>", glm(IFM)),
    "kimi_k2": around(
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        lambda calls: "".join(
            f"<|tool_call_begin|>functions.{name}:{place}<|tool_call_argument_begin|>{dumped(values)}<|tool_call_end|>"
            for place, (name, values) in enumerate(calls)
        ),
    ),
    "kimi_k3": kimi3,
    "lfm2": around("<|tool_call_start|>[", "]<|tool_call_end|>", pythonic()),
    "ling3": glm(),
    "llama3_json": around("<|python_tag|>", "", each("", "", "; ", "parameters")),
    "llama4_json": around("<|python_tag|>", "", each("", "", "; ", "parameters")),
    "llama4_pythonic": around("<|python_start|>[", "]<|python_end|>", pythonic()),
    "longcat": each("<longcat_tool_call>\n", "\n</longcat_tool_call>"),
    "mimo": qwen(newline=""),
    "minicpm5": mapped(
        lambda name, values: (
            f'<function name="{name}">'
            + "".join(f'<param name="{key}">{text_of(value)}</param>' for key, value in values.items())
            + "</function>"
        )
    ),
    "minimax_m2": invoked("<minimax:tool_call>\n", "\n</minimax:tool_call>"),
    "minimax_m3": around(
        "]<]minimax[>[<tool_call>\n",
        "\n]<]minimax[>[</tool_call>",
        mapped(
            lambda name, values: f']<]minimax[>[<invoke name="{name}">{minimax(values)}]<]minimax[>[</invoke>', "\n"
        ),
    ),
    "mistral": mapped(lambda name, values: f"[TOOL_CALLS]{name}[ARGS]{dumped(values)}"),
    "muse_glimmer": mapped(
        lambda name, values: (
            f'<|start|>assistant to={name}<|message|><atem:function_calls>\n<atem:invoke name="{name}">\n'
            + "".join(
                f'<atem:parameter name="{key}">{text_of(value)}</atem:parameter>\n' for key, value in values.items()
            )
            + "</atem:invoke>\n</atem:function_calls><|eom|>"
        )
    ),
    "olmo3": around("<function_calls>", "</function_calls>", pythonic("\n")),
    "openai": mapped(
        lambda name, values: (
            f"<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
            f"{dumped(values)}<|call|>"
        )
    ),
    "phi4_mini_json": around("functools", ""),
    "plamo3": around(
        PLAMO("begin_tool_requests"),
        PLAMO("end_tool_requests"),
        mapped(
            lambda name, values: (
                f"{PLAMO('begin_tool_request')}{PLAMO('begin_tool_name')}{name}{PLAMO('end_tool_name')}"
                f"{PLAMO('begin_tool_arguments')}<|plamo:constrain|>json<|plamo:msg|>{dumped(values)}"
                f"{PLAMO('end_tool_arguments')}{PLAMO('end_tool_request')}"
            )
        ),
    ),
    "poolside_v1": glm(),
    "pythonic": around("[", "]", pythonic()),
    "qwen3_coder": qwen(),
    "qwen3_json": each("<tool_call>\n", "\n</tool_call>"),
    "qwen3_xml": qwen(),
    "seed_oss": qwen("<seed:tool_call>", "</seed:tool_call>", ""),
    "step3": around(
        "<｜tool_calls_begin｜>",
        "<｜tool_calls_end｜>",
        mapped(
            lambda name, values: (
                f'<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="{name}">'
                + "".join(
                    f'<steptml:parameter name="{key}">{text_of(value)}</steptml:parameter>'
                    for key, value in values.items()
                )
                + "</steptml:invoke><｜tool_call_end｜>"
            )
        ),
    ),
    "step3p5": qwen(),
    "xlam": listed,
}

CONTENT: dict[str, Callable[[str], str]] = {
    "inkling": lambda text: f"<|message_model|><|content_text|>{text}<|end_message|>",
    "kimi_k3": lambda text: f"<|open|>response<|sep|>{text}<|close|>response<|sep|>",
    "muse_glimmer": lambda text: f"<|start|>assistant to=user<|message|>{text}<|eom|>",
    "openai": lambda text: f"<|start|>assistant<|channel|>final<|message|>{text}<|end|>",
    "openai_gptoss": lambda text: f"<|start|>assistant<|channel|>final<|message|>{text}<|end|>",
}
"""How content is written where it is marked."""


def thought(start: str = "<think>", end: str = "</think>") -> Callable[[str], str]:
    return lambda text: f"{start}{text}{end}"


REASONING: dict[str, tuple[Callable[[str], str], str]] = {
    "deepseek_r1": (thought(), "deepseek_v3"),
    "deepseek_v3": (thought(), "deepseek_v31"),
    "deepseek_v4": (thought(), "deepseek_v4"),
    "deepseek_v41": (thought(), "deepseek_v41"),
    "ernie45": (thought(), "ernie45"),
    "gemma4": (thought("<|channel>thought\n", "<channel|>"), "gemma4"),
    "glm45": (thought(), "glm45"),
    "glm47": (thought(), "glm47"),
    "granite": (thought("Here is my thought process:", "Here is my response:"), "granite"),
    "granite_thinking_parser": (thought(), "qwen3_coder"),
    "holo2": (thought(), "hermes"),
    "hunyuan_a13b": (thought("<think>\n", "\n</think>\n<answer>\n"), "hunyuan_a13b"),
    "hy_v3": (thought(), "hy_v3"),
    "hy_v4": (thought(), "hy_v4"),
    "inkling": (thought("<|message_model|><|content_thinking|>", "<|end_message|>"), "inkling"),
    "k2_horizon": (thought("<ifm|think>", "</ifm|think>"), "k2_horizon"),
    "kimi_k2": (thought(), "kimi_k2"),
    "kimi_k3": (thought("<|open|>think<|sep|>", "<|close|>think<|sep|>"), "kimi_k3"),
    "ling3": (thought(), "ling3"),
    "mimo": (thought(), "mimo"),
    "minicpmv": (thought(), "qwen3_coder"),
    "minimax_m2": (thought(), "minimax_m2"),
    "minimax_m2_append_think": (thought(), "minimax_m2"),
    "minimax_m3": (thought("<mm:think>", "</mm:think>"), "minimax_m3"),
    "mistral": (thought("[THINK]", "[/THINK]"), "mistral"),
    "muse_glimmer": (thought("<|start|>assistant to=self<|message|>", "<|eom|>"), "muse_glimmer"),
    "nemotron_v3": (thought(), "qwen3_coder"),
    "olmo3": (thought(), "olmo3"),
    "plamo3": (thought("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"), "plamo3"),
    "poolside_v1": (thought(), "poolside_v1"),
    "qwen3": (thought(), "hermes"),
    "seed_oss": (thought("<seed:think>", "</seed:think>"), "seed_oss"),
    "step3": (thought(), "step3"),
    "step3p5": (thought(), "step3p5"),
    "openai_gptoss": (thought("<|channel|>analysis<|message|>", "<|end|>"), "openai"),
}
"""How reasoning is written, and the tool parser of the same family."""
NOT_TOKENS = {"</function>", "</parameter>", "</invoke>", "</param>"}
MARK = re.compile(r"<\|?/?[a-z|｜▁_:]+[|｜]?>|<\|\"\|>|\[/?[A-Z_]+\]|\]<\]minimax\[>\[|｜DSML｜")
OTHERS: tuple[str, ...] = (
    "<assistant>",
    "<ifm|think_fast>",
    "</ifm|think_fast>",
    "<ifm|think_faster>",
    "</ifm|think_faster>",
)
OTHERS += ("<|plamo:tag|>", "<response>", "</response>", "<tool_sep>", "[THINK]", "[/THINK]")


def marks() -> list[str]:
    """What these models have as one token each."""
    call: Call = ("f", {"a": ""})
    texts = [write([call]) for write in TOOLS.values()]
    texts += [write("") for write in CONTENT.values()] + [write("") for write, _ in REASONING.values()]
    return sorted({mark for text in texts for mark in MARK.findall(text)} - NOT_TOKENS | {*OTHERS})


BEGUN = "<|start|>assistant"
"""What the prompt has of an answer's first message."""
NO_OPEN_PROMPT = {"inkling", "minimax_m2_append_think", "muse_glimmer", "openai_gptoss"}
"""Formats whose prompts say nothing of reasoning."""
NOTHING = {"minimax_m2_append_think": ""}
"""Parsers that call nothing reasoning."""
TOOL_SPLITS, REASONING_SPLITS = 54, 48
"""Ways to split an answer into steps that the law is asked for, of each parser; 36 where prompts say nothing."""


def law() -> str:
    """What docs/tools.md says of the law, from the data of the parsers that are held back."""
    holds = sorted(TOOLS.keys() - held_back.TOOL_PARSERS.keys())
    rows = [f"| `{name}` | held back from {texts(marks)} on |" for name, marks in held_back.TOOL_PARSERS.items()]
    rows.append(f"| {', '.join(f'`{name}`' for name in holds)} | stream |")
    own = sorted(held_back.REASONING_MARKS)
    others = sorted(REASONING.keys() - held_back.REASONING_MARKS.keys())
    reads = [f"| {', '.join(f'`{name}`' for name in others)} | stream |"]
    reads.append(f"| {', '.join(f'`{name}`' for name in own)} | stream, read by their marks and not by vLLM's parser |")
    count = len(TOOLS) * TOOL_SPLITS + sum(36 if name in NO_OPEN_PROMPT else REASONING_SPLITS for name in REASONING)
    lines = [f"{len(TOOLS)} tool parsers and {len(REASONING)} reasoning parsers, {count:,} splits.", ""]
    lines += ["| tool parser | calls |", "|---|---|", *rows, ""]
    return "\n".join([*lines, "| reasoning parser | reasoning |", "|---|---|", *reads])


def texts(marks: Sequence[str]) -> str:
    shown = (mark.replace("\n", "\\n").replace("|", "\\|") for mark in marks)
    return " or ".join(f"```` {mark} ````" if "`" in mark else f"`{mark}`" for mark in shown)
