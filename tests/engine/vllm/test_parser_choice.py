"""Which parsers are chosen: a short template in each family's form, and what makes a difference; without an engine."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from lmi_chat.codec.json_text import Json
from lmi_chat.engine.vllm import parser_choice
from lmi_chat.engine.vllm.parser_choice import BY_NAME, FAMILIES, Kind, Pick, choose
from tests.support.model_folders import THINKING_TEMPLATE

ROOT = Path(__file__).parents[3]
MARK = re.compile(r"</?[^>\s]+>|\[/?[A-Z_]+\]")
OFF = "{% if enable_thinking is false %}x{% endif %}"
THINK = "<think>x</think>"
PYTHONIC = "[func_name1(name1=value1), func_name2(name2=value2)]"
LLAMA = '{"name": "f", "parameters": {}}<|eot_id|>'
XML = "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
JSON = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
KEYS = "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"
DEEPSEEK = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
DSML = '{% set dsml = "｜DSML｜" %}'
GIGACHAT = '{"name": "f", "arguments": {}}'


def template(call: str, thought: str = "", *, reads: str = "tools") -> str:
    """A template that writes a call and a thought; what else is in it does not matter here."""
    return (
        f"{{% if {reads} %}}{{{{ {reads} | tojson }}}}{{% endif %}}"
        "{% for message in messages %}{{ message.role + message.content }}"
        f"{{% if message.reasoning %}}{thought}{{% endif %}}"
        f"{{% if message.tool_calls %}}{call}{{% endif %}}{{% endfor %}}"
    )


# family → type of the model, its call, its thought, the parsers
CASES: dict[str, tuple[str, str, str, str, str]] = {
    "gpt-oss": (
        "gpt_oss",
        "<|channel|>commentary to=functions.f<|message|>",
        "<|channel|>analysis",
        "openai",
        "openai_gptoss",
    ),
    "Muse Glimmer": (
        "muse_glimmer",
        "<atem:function_calls>",
        "assistant to=self<|message|>",
        "muse_glimmer",
        "muse_glimmer",
    ),
    "K2 Horizon": ("k2_horizon", "<ifm|tool_calls>", "<ifm|think>", "k2_horizon", "k2_horizon"),
    "Kimi K3": ("kimi_k3", "<|open|>tools<|sep|>", "<|open|>think<|sep|>", "kimi_k3", "kimi_k3"),
    "Kimi K2 Instruct": ("kimi_k2", "<|tool_calls_section_begin|>", "", "kimi_k2", ""),
    "Kimi K2 Thinking": ("kimi_k2", "<|tool_calls_section_begin|>", THINK, "kimi_k2", "kimi_k2"),
    "DeepSeek V4.1": ("deepseek_v41", f"{DSML}<{{{{ dsml }}}} calls>", THINK, "deepseek_v41", "deepseek_v41"),
    "DeepSeek V4": ("deepseek_v4", f"{DSML}<{{{{ dsml }}}}tool_calls>", THINK, "deepseek_v4", "deepseek_v4"),
    "DeepSeek V3.2": ("deepseek_v32", f"{DSML}<{{{{ dsml }}}}function_calls>", THINK, "deepseek_v32", "deepseek_v3"),
    "DeepSeek V3": ("deepseek_v3", DEEPSEEK + "function<｜tool▁sep｜>f\n```json\n{}\n```", "", "deepseek_v3", ""),
    "DeepSeek R1": (
        "deepseek_v3",
        DEEPSEEK + "function<｜tool▁sep｜>f\n```json\n{}\n```",
        THINK,
        "deepseek_v3",
        "deepseek_r1",
    ),
    "DeepSeek V3.1": ("deepseek_v3", DEEPSEEK + "f<｜tool▁sep｜>{}", THINK, "deepseek_v31", "deepseek_v3"),
    "Step 3": ("step3_vl", "<｜tool_calls_begin｜>", THINK, "step3", "step3"),
    "MiniMax M3": ("minimax_m3", "]<]minimax[>[<tool_call>", "<mm:think>x</mm:think>", "minimax_m3", "minimax_m3"),
    "MiniMax M2": ("minimax_m2", "<minimax:tool_call>", THINK, "minimax_m2", "minimax_m2"),
    "Seed-OSS": ("seed_oss", "<seed:tool_call><function=f>", "<seed:think>x</seed:think>", "seed_oss", "seed_oss"),
    "LongCat-Flash": ("longcat_flash", "<longcat_tool_call>", "", "longcat", ""),
    "dots": ("dots3_note", "<dots_function_call>", "", "dots", ""),
    "PLaMo 3": ("plamo3", "<|plamo:begin_tool_requests:plamo|>", "<|plamo:begin_think:plamo|>", "plamo3", "plamo3"),
    "Inkling": ("inkling", "<|content_invoke_tool_json|>", "<|content_thinking|>", "inkling", "inkling"),
    "Gemma 4": ("gemma4", "<|tool_call>call:f{}<tool_call|>", "<|channel>thought\nx<channel|>", "gemma4", "gemma4"),
    "Gemma 3": ("gemma3", PYTHONIC, "", "pythonic", ""),
    "FunctionGemma": ("gemma3_text", "<start_function_call>call:f{}<end_function_call>", "", "functiongemma", ""),
    "Apertus": ("apertus", "<|tools_prefix|>[]<|tools_suffix|>", "", "apertus", ""),
    "LFM2": ("lfm2", "<|tool_call_start|>[f()]<|tool_call_end|>", "", "lfm2", ""),
    "InternLM": ("internlm2", "<|action_start|><|plugin|>", "", "internlm", ""),
    "GigaChat 3": ("deepseek_v3", f"function call<|role_sep|>\n{GIGACHAT}", "", "gigachat3", ""),
    "GigaChat 3.1": ("deepseek_v3", f"<|function_call|>{GIGACHAT}", "", "gigachat3", ""),
    "Command A": (
        "cohere2",
        "<|START_ACTION|>[]<|END_ACTION|><|START_RESPONSE|>",
        "<|START_THINKING|>",
        "cohere_command3",
        "cohere_command3",
    ),
    "Command A+": (
        "cohere2_moe",
        "<|START_ACTION|>[]<|END_ACTION|><|START_TEXT|>",
        "<|START_THINKING|>",
        "cohere_command4",
        "cohere_command4",
    ),
    "Mistral": ("mistral", "[TOOL_CALLS][]", "", "mistral", ""),
    "Magistral": ("mistral3", "[TOOL_CALLS]f[ARGS]{}", "[THINK]x[/THINK]", "mistral", "mistral"),
    "xLAM 2": ("llama", "make calls in a single JSON array: [{}]", "", "xlam", ""),
    "Phi-4-mini": ("phi3", "functools[{}]", "", "phi4_mini_json", ""),
    "OLMo 3": ("olmo3", "<function_calls>\nf()\n</function_calls>", "", "olmo3", ""),
    "OLMo 3 Think": ("olmo3", "<function_calls>", THINK, "olmo3", "olmo3"),
    "Granite 20B": ("gpt_bigcode", "<function_call> {}", "", "granite-20b-fc", ""),
    "Granite 3": ("granite", "<|tool_call|>[]", "Here is my thought process:", "granite", "granite"),
    "Granite 4": ("granitemoehybrid", JSON, "", "granite4", ""),
    "Granite 4.2": ("granitemoehybrid", XML, THINK + OFF, "qwen3_coder", "granite_thinking_parser"),
    "Hunyuan A13B": ("hunyuan_v1_moe", "<tool_calls>[]</tool_calls>", THINK, "hunyuan_a13b", "hunyuan_a13b"),
    "HY V3": ("hy_v3", "<tool_calls:1a><tool_call:1a>f<arg_key:1a>", "<think:1a>", "hy_v3", "hy_v3"),
    "HY V4": ("hy_v4", "<tool_calls><tool_call>f<arg_key>", THINK, "hy_v4", "hy_v4"),
    "Jamba": ("jamba", "<tool_calls>[]</tool_calls>", "", "jamba", ""),
    "Ling 3": ("bailing_hybrid", KEYS, THINK, "ling3", "ling3"),
    "Laguna": ("laguna", KEYS, THINK, "poolside_v1", "poolside_v1"),
    "GLM 4.5": ("glm4_moe", KEYS + "/nothink", THINK, "glm45", "glm45"),
    "GLM 4.7": ("glm4_moe", KEYS, THINK + OFF, "glm47", "glm47"),
    "Step 3.5": ("step3p5", XML, THINK, "step3p5", "step3p5"),
    "MiMo": ("mimo_v2_flash", XML, THINK, "mimo", "mimo"),
    "Nemotron 3": ("nemotron_h", XML, THINK + OFF, "qwen3_coder", "nemotron_v3"),
    "Nemotron 2": ("nemotron_h", "<TOOLCALL>[]</TOOLCALL>", THINK, "", "deepseek_r1"),
    "MiniCPM-V": ("minicpmv4_6", XML, THINK + OFF, "qwen3_coder", "minicpmv"),
    "MiniCPM 5": (
        "minicpm3",
        '<function name="f"><param name="a">1</param></function>',
        THINK + OFF,
        "minicpm5",
        "qwen3",
    ),
    "ERNIE 4.5": ("ernie4_5_moe", JSON, THINK, "ernie45", "ernie45"),
    "Holo 2": ("qwen3_vl", JSON, THINK + "{% if thinking %}x{% endif %}", "hermes", "holo2"),
    "Qwen2.5": ("qwen2", JSON, "", "hermes", ""),
    "Qwen3": ("qwen3_moe", JSON, THINK + OFF, "hermes", "qwen3"),
    "Qwen3-VL": ("qwen3_vl", JSON, THINK + OFF, "hermes", "qwen3"),
    "Qwen3-Coder": ("qwen3_moe", XML, "", "qwen3_coder", ""),
    "Qwen3.5": ("qwen3_5", XML, THINK + OFF, "qwen3_coder", "qwen3"),
    "Qwen3-Next": ("qwen3_next", JSON, "", "hermes", ""),
    "QwQ": ("qwen2", JSON, THINK, "hermes", "deepseek_r1"),
    "SmolLM3": ("smollm3", JSON, THINK + OFF, "hermes", "qwen3"),
    "EXAONE 4": ("exaone4", JSON, THINK + OFF, "hermes", "qwen3"),
    "Hermes 3": ("llama", JSON, "", "hermes", ""),
    "Llama 3.1": ("llama", f"<|python_tag|>f.call(){LLAMA}", "", "llama3_json", ""),
    "Llama 3.2": ("llama", LLAMA + "{# <|python_tag|> #}", "", "llama3_json", ""),
    "Llama 3.2 in Python": ("mllama", PYTHONIC, "", "pythonic", ""),
    "Llama 4 in Python": ("llama4", PYTHONIC, "", "llama4_pythonic", ""),
    "Llama 4 in JSON": ("llama4", LLAMA, "", "llama4_json", ""),
}


def chosen(model_type: str, text: str, *more: str) -> tuple[Pick, Pick]:
    """The parsers for a template whose marks are all tokens."""
    vocabulary = {*MARK.findall(text), *more}
    config = {"model_type": model_type}
    return choose("tool", config, text, vocabulary), choose("reasoning", config, text, vocabulary)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_familys_form(case: tuple[str, str, str, str, str]) -> None:
    model_type, call, thought, *expected = case
    tool, reasoning = chosen(model_type, template(call, thought), "<|python_tag|>")
    assert [tool.parser, reasoning.parser] == expected
    assert tool.why
    assert reasoning.why


@pytest.mark.skipif(find_spec("vllm") is None, reason="the names are those of the engine that is installed")
@pytest.mark.parametrize(("kind", "place", "count"), [("tool", 3, 54), ("reasoning", 4, 38)])
def test_every_parser_of_the_engine_is_reached_or_left_out_on_purpose(kind: Kind, place: int, count: int) -> None:
    names = parser_choice.known(kind)
    assert len(names) == count
    reached = {str(case[place]) for case in CASES.values()} - {""}
    assert reached | BY_NAME[kind].keys() == names
    assert not reached & BY_NAME[kind].keys()
    assert {form.parser for family in FAMILIES if (form := family.form(kind))} == reached


def test_a_fine_tune_keeps_the_template_and_its_parsers() -> None:
    """Of another type, or of none that is known."""
    for model_type in ("llama", "mistral", "a_new_one", ""):
        tool, reasoning = chosen(model_type, THINKING_TEMPLATE)
        assert tool == Pick("hermes", "the chat template writes <tool_call> with JSON")
        assert reasoning == Pick("qwen3", "the chat template writes <think> and enable_thinking")
    assert choose("tool", {}, template(XML), set()).parser == "qwen3_coder"


def test_the_type_tells_forms_apart_and_is_said() -> None:
    assert choose("tool", {"architectures": ["BailingMoeV3ForCausalLM"]}, template(KEYS), set()).parser == "ling3"
    vision = {"model_type": "x", "text_config": {"model_type": "ernie4_5_moe"}}
    assert choose("tool", vision, template(JSON), set()) == Pick(
        "ernie45", "the chat template writes <tool_call> with JSON, the model is of type ernie4_5_moe"
    )


def test_the_type_alone_counts_where_tools_are_read_and_no_form_is_known() -> None:
    text = template("{{ call | as_only_this_model_writes_it }}")
    assert choose("tool", {"model_type": "hy_v3"}, text, set()) == Pick("hy_v3", "the model is of type hy_v3")
    for model_type in ("llama", "qwen2", ""):
        nothing = Pick("", "the chat template writes calls in no known form")
        assert choose("tool", {"model_type": model_type}, text, set()) == nothing
    assert choose("reasoning", {"model_type": "hy_v3"}, text, set()) == Pick("", "the chat template writes none")


@pytest.mark.parametrize(
    "reads",
    [
        "message.tools",
        "messages[0]['tools']",
        "tool_calls",
        "'tools'",
        'namespace(tools=1)["tools"]',
        "available_tools",
    ],
)
def test_a_template_that_reads_no_tools_gets_no_parser_of_calls(reads: str) -> None:
    tool, reasoning = chosen("qwen3", template(JSON, THINK, reads=reads))
    assert tool == Pick("", "the chat template reads no tools")
    assert reasoning.parser == "deepseek_r1"


@pytest.mark.parametrize(
    "reads", ["tools is defined", "tools", "not tools", "xml_tools or tools", "tools | length > 0"]
)
def test_ways_to_read_tools(reads: str) -> None:
    assert chosen("qwen3", template(JSON, reads=reads))[0].parser == "hermes"


def test_what_only_a_comment_says_is_not_written() -> None:
    text = template("x") + "{#- <tool_call>\n <think></think> #}"
    assert [pick.parser for pick in chosen("qwen3", text, "<think>", "</think>")] == ["", ""]


@pytest.mark.parametrize(
    ("kind", "call", "thought", "missing"),
    [
        ("reasoning", JSON, THINK + OFF, "<think>"),
        ("tool", "[TOOL_CALLS]", "", "[TOOL_CALLS]"),
        ("tool", "<|python_tag|>", "", "<|python_tag|>"),
    ],
)
def test_a_token_that_is_missing_leaves_no_parser(kind: Kind, call: str, thought: str, missing: str) -> None:
    pick = choose(kind, {}, template(call, thought), {"a"})
    assert not pick.parser
    assert pick.why.endswith(f", but the tokenizer has no token {missing}")


def test_a_model_without_a_template_has_none() -> None:
    for kind in BY_NAME:
        assert choose(kind, {"model_type": "gpt_oss"}, None, {"<think>"}) == Pick("", "the model has no chat template")


@pytest.mark.parametrize(
    ("mode", "vocabulary", "tool", "reasoning"),
    [
        ("mistral", ("[TOOL_CALLS]",), "mistral", ""),
        ("mistral", ("[TOOL_CALLS]", "[THINK]", "[/THINK]"), "mistral", "mistral"),
        ("mistral", (), "", ""),
        ("deepseek_v32", ("<think>", "</think>"), "deepseek_v32", "deepseek_v3"),
        ("deepseek_v4", ("<think>", "</think>"), "deepseek_v4", "deepseek_v4"),
        ("deepseek_v41", ("<think>", "</think>"), "deepseek_v41", "deepseek_v41"),
        ("gpt_oss", ("<|channel|>",), "openai", "openai_gptoss"),
        ("kimi_k3", (), "kimi_k3", "kimi_k3"),
        ("inkling", ("<|content_thinking|>",), "inkling", "inkling"),
        ("cohere", ("<|START_THINKING|>",), "cohere_command4", "cohere_command4"),
        ("a_new_one", (), "", ""),
    ],
)
def test_tokenizers_whose_own_code_renders(mode: str, vocabulary: tuple[str, ...], tool: str, reasoning: str) -> None:
    found = [choose(kind, {}, None, set(vocabulary), mode) for kind in ("tool", "reasoning")]
    assert [pick.parser for pick in found] == [tool, reasoning]
    assert all(mode in pick.why for pick in found)


@pytest.mark.skipif(find_spec("vllm") is None, reason="the names are those of the engine that is installed")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hermis", "the nearest is hermes"),
        ("Qwen3", "the nearest are qwen3_xml, qwen3_json, qwen3_coder"),
        ("zzz", "none is near"),
    ],
)
def test_a_wrong_name_has_the_nearest(name: str, says: str) -> None:
    text = parser_choice.wrong_name("tool_call_parser", name, parser_choice.known("tool"))
    assert text == f"tool_call_parser must be auto, none or a parser of the engine, got {name!r}; {says}"


def test_the_default_model_has_neither() -> None:
    text = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + message['content'] + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
    )
    assert [pick.parser for pick in chosen("llama", text)] == ["", ""]


def test_the_documents_table_is_the_codes_own() -> None:
    page = (ROOT / "docs" / "tools.md").read_text(encoding="utf-8")
    assert f"<!-- families -->\n{parser_choice.table()}\n<!-- /families -->" in page
    rows = [line for line in parser_choice.table().splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(FAMILIES)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_configurations_type_is_read_as_json_has_it() -> None:
    odd: Json = {"model_type": 3, "architectures": None, "text_config": "x"}
    assert choose("tool", odd, template(JSON), set()).parser == "hermes"
