"""Decode the input of a custom tool's call, a free text, out of the arguments that the model writes for it.

A model knows a custom tool as a function with one string, `input`. Arguments that do not begin as such an object are
the input as they are; of those that do, it is what their string says, with escapes that JSON does not have as they are.
"""

import re
from typing import Literal

from lmi_chat.codec.json_text import Json, dump, unescape

PARAMETERS: Json = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "what the tool takes: free text"}},
    "required": ["input"],
    "additionalProperties": False,
}
HEAD = '{"input":"'
SPACED = frozenset((0, 1, 8, 9))
"""The places of HEAD before which JSON lets spaces stand: those of its brace, its first quote, its colon, its last."""
SPACES = " \t\n\r"
HEX = "[0-9A-Fa-f]"
HIGH, LOW, SURROGATE = f"[Dd][89ABab]{HEX}{{2}}", f"[Dd][C-Fc-f]{HEX}{{2}}", f"[Dd][89A-Fa-f]{HEX}{{2}}"
ESCAPE = rf'\\(?:["\\/bfnrt]|u(?!{SURROGATE}){HEX}{{4}}|u{HIGH}\\u{LOW})'
PIECE = re.compile(
    rf'(?P<spelled>(?:[^"\\\x00-\x1f]|{ESCAPE})++)'
    rf"|(?P<open>\\(?:u(?:{HEX}{{0,3}}|{HIGH}(?:\\(?:u{HEX}{{0,3}})?)?))?\Z)"  # what comes next may belong to it
    r'|(?P<end>")|(?P<other>[\\\x00-\x1f])'
)


def as_arguments(text: str) -> str:
    """An input as the arguments that the model would have written."""
    return dump({"input": text}).decode()


class CustomInput:
    """The input of one call, in pieces as its arguments come; joined they are the same however these are split."""

    __slots__ = ("_place", "_rest", "_seen", "_state")

    def __init__(self) -> None:
        """Begin before the arguments."""
        self._state: Literal["head", "string", "over", "bare"] = "head"
        self._place = 0  # in HEAD
        self._seen: list[str] = []  # the arguments as far as they may be HEAD
        self._rest = ""  # an escape that is not complete

    def take(self, text: str) -> str:
        """More of the arguments → more of the input."""
        if self._state == "head":
            text = self._behind_head(text)
        if self._state == "string":
            return self._decoded(text)
        return text if self._state == "bare" else ""

    def end(self, *, is_cut: bool) -> str:
        """The last piece: arguments that ended before HEAD did, and were not cut there, are the input too."""
        return "".join(self._seen) if self._state == "head" and not is_cut else ""

    def _behind_head(self, text: str) -> str:
        """What stands behind HEAD; all of the arguments where they begin otherwise."""
        self._seen.append(text)
        for at, character in enumerate(text):
            if character == HEAD[self._place]:
                self._place += 1
                if self._place == len(HEAD):
                    self._state = "string"
                    return text[at + 1 :]
            elif character not in SPACES or self._place not in SPACED:
                self._state = "bare"
                return "".join(self._seen)
        return ""

    def _decoded(self, text: str) -> str:
        told: list[str] = []
        text, self._rest = self._rest + text, ""
        for piece in PIECE.finditer(text):
            match piece.lastgroup:
                case "spelled":
                    told.append(unescape(piece[0].encode()))
                case "other":
                    told.append(piece[0])
                case "open":
                    self._rest = piece[0]
                case _:
                    self._state = "over"
                    break
        return "".join(told)
