"""Translate the description that vLLM's parsers give of their calls into a grammar of llguidance.

The parsers describe a call as a tree of xgrammar's formats (`xgrammar.structural_tag`), which vLLM's backend for
llguidance does not take. Where a format leaves more open than the parser can read, the grammar is narrower: a marker
that begins a call stands in no free text, and between calls that must come is nothing but whitespace.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lmi_chat.engine.vllm.structured_output import whitespace
from lmi_chat.engine.vllm.structured_output.arguments import STYLES, Style, arguments
from lmi_chat.engine.vllm.structured_output.lark import Grammar, choice, escape, regex

BETWEEN = r"/[ \n]{1,2}/"
LLAMA = r'\{\s*"(?:name|type|parameters|arguments|function)"'
LLAMA_TRIGGER, LLAMA_BETWEEN = '{"name": ', '"; "'
"""Llama's parser passes over a call that follows another at once."""
MORE_EXCLUDED: Mapping[str, str] = {LLAMA_TRIGGER: LLAMA, "<tool_call>": r"<\s*function\s*="}
"""What parsers take for the beginning of a call beside its first marker."""


def expression(node: Any, grammar: Grammar, styles: Mapping[str, Style] = STYLES, *, is_outermost: bool = True) -> str:
    """Write an expression that matches what a format of xgrammar describes. Raises KeyError for one that it has not."""
    return _Writer(grammar, styles).write(node, is_outermost=is_outermost)


class _Writer:
    def __init__(self, grammar: Grammar, styles: Mapping[str, Style]) -> None:
        self._grammar, self._styles = grammar, styles
        self._writers = {
            "const_string": lambda node: self._grammar.literal(node.value),
            "regex": lambda node: regex(node.pattern),
            "json_schema": self._schema,
            "any_text": lambda node: self._grammar.free(map(escape, node.excludes)),
            "sequence": lambda node: " ".join(filter(None, map(self.write, node.elements))),
            "or": lambda node: choice([self.write(one) for one in node.elements]),
            "optional": lambda node: f"({self.write(node.content)})?",
            "plus": lambda node: f"({self.write(node.content)})+",
            "star": lambda node: f"({self.write(node.content)})*",
            "tag": self._tag,
            "triggered_tags": self._triggered,
            "tags_with_separator": self._separated,
        }

    def write(self, node: Any, *, is_outermost: bool = False) -> str:
        """Write one format; `is_outermost`: nothing stands around it."""
        if is_outermost and node.type == "tags_with_separator" and not node.separator:
            return self._several(self._either(node.tags), f"({BETWEEN})?", node)
        return self._writers[node.type](node)

    def _either(self, tags: Sequence[Any]) -> str:
        return self._grammar.rule(" | ".join(dict.fromkeys(map(self.write, tags))))

    def _schema(self, node: Any) -> str:
        if node.style != "json":
            return f"({written})" if (written := self._arguments(node.json_schema, node.style)) else ""
        schema = {"type": "object"} if node.json_schema is True else node.json_schema
        return self._grammar.json(whitespace.bounded(json.dumps(schema), None, is_compact=False))

    def _arguments(self, schema: Any, style: str) -> str:
        return arguments(self._grammar, schema if isinstance(schema, Mapping) else {}, self._styles[style])

    def _tag(self, node: Any) -> str:
        begin = self._grammar.literal(node.begin)
        ends = [node.end] if isinstance(node.end, str) else list(node.end)
        end = choice([self._grammar.literal(one) for one in ends if one])
        if "" in ends:
            end = f"({end})?"
        elif node.content.type == "any_text":
            return f"{begin} {self._grammar.until(ends[0], map(escape, node.content.excludes))}".lstrip()
        if node.content.type == "json_schema" and node.content.style == "qwen_xml":
            return self._qwen(node)
        return " ".join(filter(None, (begin, self.write(node.content), end)))

    def _qwen(self, node: Any) -> str:
        """Write a call whose arguments stand on lines of their own, if its first line ends before them, else in one."""
        style = "qwen_xml" if node.begin.endswith("\n") else "mimo_xml"
        written = self._arguments(node.content.json_schema, style)
        end = self._grammar.literal(node.end.removeprefix("\n"))
        return " ".join(filter(None, (self._grammar.literal(node.begin), written and f"({written})", end)))

    def _separated(self, node: Any) -> str:
        return self._several(self._either(node.tags), self._grammar.literal(node.separator), node)

    def _several(self, one: str, between: str, node: Any) -> str:
        several = one if node.stop_after_first else f"{one} ({between} {one})*"
        return several if node.at_least_one else f"({several})?"

    def _triggered(self, node: Any) -> str:
        """Write free text with calls in it, or calls alone if there must be one."""
        is_llama = node.triggers == [LLAMA_TRIGGER]
        if node.at_least_one:
            return self._several(self._either(node.tags), LLAMA_BETWEEN if is_llama else f"({BETWEEN})?", node)
        triggers = [one.split("\n")[0] for one in node.triggers]
        excluded = [*map(escape, [*node.excludes, *triggers]), *(MORE_EXCLUDED[one] for one in triggers
                    if one in MORE_EXCLUDED)]  # fmt: skip
        calls = []
        for trigger in triggers:
            rests = [
                self.write(tag.model_copy(update={"begin": tag.begin.removeprefix(trigger)}))
                for tag in node.tags
                if tag.begin.startswith(trigger)
            ]
            calls.append(f"{self._grammar.until(trigger, excluded)} {self._grammar.rule(' | '.join(rests))}")
        call, text = self._grammar.rule(" | ".join(calls)), self._grammar.free(excluded)
        if is_llama and not node.stop_after_first:
            return f"({call} ({LLAMA_BETWEEN} {self._either(node.tags)})* | {text})"
        return f"({call} | {text})" if node.stop_after_first else f"{call}* {text}"
