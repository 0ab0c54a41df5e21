"""Write the rules for the arguments of a call that are not JSON: one tag for each, strings bare, the rest as JSON.

The parser finds out what a value is by the schema, so a text must not be taken for something else that does not fit:
where a value may be a string or more, a string does not begin as a number, an object or an array does. Required
arguments are always there, each comes at most once, in the schema's order; further ones come only where the schema
names none. Of strings `enum`, `pattern`, `minLength` and `maxLength` are kept, `format` is not.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from lmi_chat.engine.vllm.structured_output import whitespace
from lmi_chat.engine.vllm.structured_output.lark import ANY, Grammar, choice, escape, regex
from lmi_chat.engine.vllm.tool_schema import REF, explicit, type_of

Schema = Mapping[str, Any]
FORMS_MOST = 32
"""A schema may say by `anyOf` and `allOf` that there are so many forms of an object; the others are left out."""
NAME = "[A-Za-z_][A-Za-z0-9_-]*"
BARE_START = r'(?:[^\s\d+.\-\[{"](?s:.*))?'
"""What a string begins with that is not read as a number, an array or an object."""
WORDS = {"null": "null", "boolean": "true|false"}
BARE = re.compile(r'[^\s\d+.\-\[{"]|$')
Begin = Callable[[str], str]
"""Writes what stands before a value of that type."""


@dataclass(frozen=True, slots=True)
class Style:
    """How an argument is written. `opening` has {name}, and {kind} where the text says what the value is.

    `excluded`: a regex of what no string holds, because the parser would end the value there; `after` stands behind
    each argument. `kinds` says what the kind is: "dsml" true for strings, "k3" its type.
    """

    opening: str
    closing: str
    excluded: str
    after: str = ""
    kinds: Literal["", "dsml", "k3"] = ""

    def begin(self, name: str, kind: str) -> str:
        """Write what stands before a value of that type."""
        match self.kinds:
            case "dsml":
                kind = "true" if kind == "string" else "false"
            case "k3":
                kind = "number" if kind == "integer" else kind
                name = name.replace("&", "&amp;").replace('"', "&quot;")
        return self.opening.replace("{kind}", kind).replace("{name}", name)


QWEN_TAGS = r"</?\s*(?:parameter|function|tool_call)"
DSML = "｜DSML｜"
STYLES: Mapping[str, Style] = {
    "qwen_xml": Style("<parameter={name}>\n", "\n</parameter>", QWEN_TAGS, "\n"),
    "mimo_xml": Style("<parameter={name}>", "</parameter>", QWEN_TAGS),
    "minimax_xml": Style(
        '<parameter name="{name}">', "</parameter>", r"</?\s*(?:parameter|invoke|minimax:tool_call)", "\n"
    ),
    "deepseek_xml": Style(
        f'<{DSML}parameter name="{{name}}" string="{{kind}}">', f"</{DSML}parameter>", f"</?{DSML}", "\n", "dsml"
    ),
    "deepseek_v4_1_xml": Style(
        f'<{DSML} parameter name="{{name}}" string="{{kind}}">', f"</{DSML} parameter>", f"</?{DSML}", "\n", "dsml"
    ),
    "glm_xml": Style(
        "<arg_key>{name}</arg_key><arg_value>", "</arg_value>", "</?(?:arg_key|arg_value|tool_call|think)>"
    ),
    "kimi_k3_xml": Style(
        '<|open|>argument key="{name}" type="{kind}"<|sep|>',
        "<|close|>argument<|sep|>",
        r"<\|(?:open|close|sep|end_of_msg)\|>",
        kinds="k3",
    ),
}


def hy_style(suffix: str) -> Style:
    """Build Hunyuan's style; its tags have a `suffix` of the model's own."""
    return Style(
        f"<arg_key{suffix}>{{name}}</arg_key{suffix}><arg_value{suffix}>",
        f"</arg_value{suffix}>",
        r"</?(?:arg_key|arg_value|tool_call|tool_calls)(?::[^\s>]+)?>",
    )


@dataclass(frozen=True, slots=True)
class _Form:
    """One form of an object: its properties, which of them must be there, and what further ones are; None for none."""

    properties: Mapping[str, Any]
    required: tuple[str, ...] = ()
    others: Any = None

    def merged(self, other: "_Form") -> "_Form":
        """Build the form of what has this form and the other one."""
        both = {name: {"allOf": [self.properties[name], one]} for name, one in other.properties.items()
                if name in self.properties}  # fmt: skip
        required = dict.fromkeys((*self.required, *other.required))
        others = other.others if self.others is None else self.others
        return _Form({**self.properties, **other.properties, **both}, tuple(required), others)


def arguments(grammar: Grammar, schema: Schema, style: Style) -> str:
    """Write an expression for the arguments of a call as `schema` describes them; "" where there can be none."""
    read = explicit(schema)
    writer = _Writer(grammar, style, schema)
    forms = [writer.form(form) for form in islice(_forms(read), FORMS_MOST)]
    if all(forms):
        return choice(list(dict.fromkeys(forms)))
    return f"({' | '.join(dict.fromkeys(filter(None, forms)))})?" if any(forms) else ""


def _forms(schema: Schema) -> Iterator[_Form]:
    """Take apart what an object may look like."""
    required = schema.get("required", ())
    properties = schema.get("properties", {})
    bare = not properties and not required
    own = _Form(properties, tuple(required), schema.get("additionalProperties", True if bare else None))
    forms = [own]
    for part in schema.get("allOf", ()):
        forms = [one.merged(other) for one in forms for other in islice(_forms(part), FORMS_MOST)]
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            ways = [form for part in schema[name] for form in islice(_forms(part), FORMS_MOST)]
            forms = [one.merged(way) for one in forms[:FORMS_MOST] for way in ways]
    yield from forms


class _Writer:
    def __init__(self, grammar: Grammar, style: Style, root: Schema) -> None:
        self._grammar, self._style = grammar, style
        self._shared = {name: root[name] for name in ("$defs", "definitions", whitespace.KEY) if name in root}

    def form(self, form: _Form) -> str:
        """Write all arguments of an object of that form."""
        parts = []
        for name in dict.fromkeys((*form.properties, *form.required)):
            schema = form.properties.get(name, True if form.others in (None, False) else form.others)
            if schema is False:
                continue
            argument = self._argument(name, {} if schema is True else schema)
            parts.append(argument if name in form.required else f"({argument})?")
        if not form.properties and not form.required and form.others is not False:
            others = form.others if isinstance(form.others, Mapping) else {}
            parts.append(f"({self._any_argument(others)})*")
        return " ".join(parts)

    def _argument(self, name: str, schema: Schema) -> str:
        """Write an argument of that name."""
        return self._either(schema, lambda kind: self._grammar.literal(self._style.begin(name, kind)))

    def _any_argument(self, schema: Schema) -> str:
        """Write an argument of any name."""

        def begin(kind: str) -> str:
            before, after = self._style.begin("\0", kind).split("\0")
            return f"{self._grammar.literal(before)} {regex(NAME)} {self._grammar.literal(after)}"

        return self._either(schema, begin)

    def _either(self, schema: Schema, begin: Begin) -> str:
        after = self._grammar.literal(self._style.after)
        return self._grammar.rule(" | ".join(dict.fromkeys(f"{way} {after}" for way in self._values(schema, begin))))

    def _values(self, schema: Schema, begin: Begin) -> list[str]:
        """Write an argument with each kind of value that `schema` allows."""
        types = _types(schema)
        if isinstance(values := schema.get("enum"), list):
            return [self._fixed(value, begin) for value in values if self._reads_as(value, types)]
        strings = list(_strings(schema)) if "string" in types else []
        others = [one for one in types if one != "string"]
        ways = [self._string(one, others, begin) for one in strings]
        if strings and not self._style.kinds:
            others = [one for one in others if one not in WORDS]
        return ways + (self._json(schema, others, begin) if others else [])

    def _fixed(self, value: Any, begin: Begin) -> str:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return f"{begin(type_of(value))} {self._grammar.literal(text + self._style.closing)}"

    def _reads_as(self, value: Any, types: list[str]) -> bool:
        """Whether a fixed value, written down, is read as itself by a parser that knows the types alone."""
        if not isinstance(value, str):
            return True
        if re.search(self._style.excluded, value):
            return False
        is_bare = BARE.match(value) is not None and value.lower() not in {"null", "true", "false"}
        return types == ["string"] or self._style.kinds == "k3" or is_bare

    def _string(self, schema: Schema, others: list[str], begin: Begin) -> str:
        patterns = list(_patterns(schema))
        if others and self._style.kinds != "k3":
            words = "|".join(WORDS[one] for one in others if one in WORDS)
            if words and patterns:
                patterns = [f"(?:{one})|{words}" for one in patterns]
            patterns.append(BARE_START)
        return f"{begin('string')} {self._grammar.until(self._style.closing, (self._style.excluded,), patterns)}"

    def _json(self, schema: Schema, types: list[str], begin: Begin) -> list[str]:
        closing = self._grammar.literal(self._style.closing)
        ways = []
        for kinds in [[one] for one in types] if self._style.kinds == "k3" else [types]:
            one = {**self._shared, **_bare(_restricted(schema, kinds))}
            text = whitespace.bounded(json.dumps(one), None, is_compact=False)
            ways.append(f"{begin(kinds[0])} {self._grammar.json(text)} {closing}")
        return ways


def _types(schema: Schema) -> list[str]:
    """List the types that vLLM's parsers find in a schema: a string where it says nothing."""
    found: dict[str, None] = {}
    named = schema.get("type")
    for one in named if isinstance(named, list) else [named]:
        if isinstance(one, str):
            found[one] = None
    for name in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(name, ()):
            found.update(dict.fromkeys(_types(part) if isinstance(part, Mapping) else ["string"]))
    return list(found) or ["string"]


def _strings(schema: Schema) -> Iterator[Schema]:
    """Take out of a schema what it says of strings: one schema for each way."""
    parts = [part for name in ("anyOf", "oneOf") for part in schema.get(name, ()) if isinstance(part, Mapping)]
    if not parts:
        yield schema
    for part in parts:
        if "string" in _types(part):
            yield from _strings(part)


def _restricted(schema: Schema, types: list[str]) -> Schema:
    """Narrow a schema to some of its types."""
    if types == _types(schema):
        return schema
    return {**schema, "type": types[0] if len(types) == 1 else types}


def _bare(node: Any) -> Any:
    """Take the type away that stands beside a reference: llguidance takes none that leads back to itself with it."""
    if isinstance(node, list):
        return [_bare(one) for one in node]
    if not isinstance(node, dict):
        return node
    if node.keys() == {REF, "type"}:
        return {REF: node[REF]}
    return {name: _bare(one) for name, one in node.items()}


def _patterns(schema: Schema) -> Iterator[str]:
    """Write what a schema says of a string as regexes that match the whole of it."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if least or most is not None:
        yield f"(?s:.{{{least},{'' if most is None else most}}})"
    if isinstance(values := schema.get("enum"), list):
        yield "|".join(escape(one) for one in values if isinstance(one, str))
    if isinstance(pattern := schema.get("pattern"), str):
        yield "|".join(map(_whole, _alternatives(pattern)))
    for part in schema.get("allOf", ()):
        yield from _patterns(part)


def _alternatives(pattern: str) -> list[str]:
    """Split a regex at the bars that stand in no group and no class."""
    parts, depth, in_class = [""], 0, False
    for found in re.finditer(r"\\.|.", pattern, re.DOTALL):
        one = found[0]
        if in_class:
            in_class = one != "]"
        elif one == "[":
            in_class = True
        elif one in "()":
            depth += 1 if one == "(" else -1
        if one == "|" and depth == 0 and not in_class:
            parts.append("")
        else:
            parts[-1] += one
    return parts


def _whole(pattern: str) -> str:
    """Make a regex that is searched for match the whole text; its classes of digits and words are ASCII's."""
    head, tail = pattern.startswith("^"), re.search(r"(?<!\\)(?:\\\\)*\$$", pattern) is not None
    inside = pattern[1 if head else 0 : -1 if tail else None]
    inside = re.sub(r"\\(.)", lambda found: {"d": "[0-9]", "w": "[A-Za-z0-9_]"}.get(found[1], found[0]), inside)
    return f"{'' if head else ANY}(?:{inside}){'' if tail else ANY}"
