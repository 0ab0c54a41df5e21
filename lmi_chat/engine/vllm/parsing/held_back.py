"""Define the parsers of vLLM whose streams are not their reading of the whole text; tests/real/test_parsers.py asks.

Their calls are held back to the end, see Whole. By name, with the texts that calls begin with.
"""

import re

TOOL_PARSERS: dict[str, tuple[str, ...]] = {
    "functiongemma": ("<start_function_call>",),
    "gigachat3": ("<|function_call|>", "function call<|role_sep|>\n"),
    "granite-20b-fc": ("<function_call>",),
    "hunyuan_a13b": ("<tool_calls>",),
    "internlm": ("<|action_start|>",),
    "jamba": ("<tool_calls>",),
    "llama3_json": ("<|python_tag|>", "{"),
    "llama4_json": ("<|python_tag|>", "{"),
    "minicpm5": ("<function",),
    "olmo3": ("<function_calls>",),
    "phi4_mini_json": ("functools",),
    "step3": ("<｜tool_calls_begin｜>",),
    "xlam": ("[", "{", "```", "<tool_call>", "</think>"),
}
CALL_ENDS = {"functiongemma": re.compile("<end_function_call>")}
"""What the last call ends with, of parsers that read one without it as if it were whole."""
REASONING_MARKS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "granite": (
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
        "",
    ),
    "hunyuan_a13b": (("<think>\n",), ("\n</think>\n<answer>\n",), "\n</answer>"),
    "step3": (("<think>",), ("</think>",), ""),
}
"""Reasoning parsers that are read by these texts instead: what reasoning begins and ends with, and what ends all.

vLLM's own know the tokens of one tokenizer only, never tell that reasoning is over, or leave its beginning in.
"""
