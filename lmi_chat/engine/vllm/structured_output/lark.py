"""Write a grammar in llguidance's dialect of Lark, rule by rule.

Two facts of its lexer shape what is written. A terminal takes as much as it can, unless it is lazy, so free text up to
a marker is one lazy terminal that ends with the marker, and free text without an end is one that cannot hold it. And a
text never matches a special token, so a marker that is one is written as its id. Where a text is the only way on,
llguidance allows its canonical tokens alone: a marker that is one token of the vocabulary comes as that token.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

ANY = "(?s:.*)"
HEAD = "%llguidance {}"
"""Tells llguidance and vLLM that a text is Lark, whatever stands in its strings."""
RESERVED = re.compile(r"[\\.+*?()|\[\]{}^$/#&~-]")


def quote(text: str) -> str:
    """Write `text` as a string of Lark."""
    return json.dumps(text)


def escape(text: str) -> str:
    """Write `text` as a regex that matches it alone."""
    escaped = RESERVED.sub(r"\\\g<0>", text)
    return escaped.replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")


def regex(pattern: str) -> str:
    """Write a regex as a terminal of Lark, which a bare slash or newline would end."""
    inside = re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], pattern, flags=re.DOTALL)
    return f"/{inside}/".replace("\n", r"\n")


def choice(expressions: Sequence[str]) -> str:
    """Write an expression that matches one of `expressions`."""
    return expressions[0] if len(expressions) == 1 else f"({' | '.join(expressions)})"


def without(excluded: Iterable[str], patterns: Sequence[str] = ()) -> str:
    """Write a terminal that matches what all `patterns` do and holds none of the `excluded` regexes."""
    held = "|".join(excluded)
    inside = " & ".join(map(regex, patterns or (ANY,)))
    return f"{inside} & ~{regex(f'{ANY}({held}){ANY}')}" if held else inside


class Grammar:
    """The rules written so far. `special`: the special tokens of the tokenizer, by their text."""

    def __init__(self, special: Mapping[str, int]) -> None:
        """Begin an empty grammar."""
        self._special = special
        names = sorted(filter(None, special), key=len, reverse=True)
        self._markers = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None
        self._rules: list[str] = []
        self._names: dict[str, str] = {}

    def text(self, start: str) -> str:
        """Write the whole grammar, which begins with the expression `start`."""
        return "\n".join([HEAD, f"start: {start}", *self._rules, ""])

    def rule(self, body: str, options: str = "") -> str:
        """Add a rule, or find the same one, and return its name."""
        return self._add("r", options, body)

    def terminal(self, body: str) -> str:
        """Add a terminal, or find the same one, and return its name."""
        return self._add("T", "", body)

    def _add(self, kind: str, options: str, body: str) -> str:
        key = kind + options + body
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"{kind}{len(self._names)}"
            self._rules.append(f"{name}{options}: {body}")
        return name

    def pieces(self, text: str) -> list[str]:
        """Split `text` before and after each special token."""
        return [part for part in self._markers.split(text) if part] if self._markers else [text] if text else []

    def literal(self, text: str) -> str:
        """Write an expression that matches `text`, special tokens by their ids; "" for no text."""
        return " ".join(
            f"<[{self._special[piece]}]>" if piece in self._special else quote(piece) for piece in self.pieces(text)
        )

    def json(self, schema: str) -> str:
        """Add a rule that matches the JSON of a schema, given as text, and return its name."""
        return self.rule(f"%json {schema}")

    def free(self, excluded: Iterable[str] = (), patterns: Sequence[str] = ()) -> str:
        """Add a terminal for text that matches all `patterns` and holds none of the `excluded` regexes."""
        return self.terminal(without(excluded, patterns))

    def until(self, end: str, excluded: Iterable[str] = (), patterns: Sequence[str] = ()) -> str:
        """Write an expression that matches text as `free` does, up to and with the text `end`."""
        first = self.pieces(end)[0]
        text = self.free([*excluded, escape(first)], patterns)
        after = self.literal(end[len(first) :])
        if first in self._special:
            return f"{text} {self.literal(first)} {after}".rstrip()
        return f"{self.rule(f'{text} {quote(first)}', '[lazy]')} {after}".rstrip()
