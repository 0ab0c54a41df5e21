"""Read the calls of one sequence from the pieces that a parser tells, each up to the end of its JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from lmi_chat.job import CallPart, DeltaKind


@dataclass(slots=True)
class Part:
    """A text of one kind. `call`: see Delta."""

    kind: DeltaKind
    text: str
    call: CallPart | None = None


NUMBERS = {"I": "1e999", "N": "null"}
"""What Python writes as Infinity and NaN, by their first letter, as JSON has it: a number too great, and none."""


def new_id() -> str:
    """Make the id of a call."""
    return f"chatcmpl-tool-{uuid4().hex}"


class Value:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        """Begin before its first character."""
        self._depth = 0
        self._is_string = self._is_escaped = False
        self._is_name = False  # the last character was of a name that no JSON has
        self._names: list[int] = []  # where such names are in the text that was read last

    def read(self, text: str) -> tuple[int, bool]:
        """Return how many characters of `text` belong to the value, and whether it is over.

        What does not begin like an object or an array is never over.
        """
        self._names = [-1] if self._is_name else []
        for place, character in enumerate(text):
            if self._is_escaped:
                self._is_escaped = False
            elif self._is_string:
                self._is_escaped = character == "\\"
                self._is_string = character != '"'
            elif character == '"':
                self._is_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
            elif character in NUMBERS:
                self._names.append(place)
            if not self._depth and character in "}]" and not self._is_string:
                return place + 1, True
        return len(text), False

    def finite(self, text: str) -> str:
        """Write what was read last as JSON: a parser that converts values may have made names of numbers."""
        if not self._names:
            return text
        parts, start = [], 0
        self._is_name = False
        for place in self._names:
            if 0 <= place < start:
                continue  # the last letter of NaN
            end = next((k for k in range(place + 1, len(text)) if not text[k].isalpha()), len(text))
            parts.append(text[start:place] + NUMBERS[text[place]] if place >= 0 else "")
            self._is_name, start = end == len(text), end
        return "".join(parts) + text[start:]


def finite(text: str) -> str:
    """Write a whole value as JSON."""
    value = Value()
    length, _ = value.read(text)
    return value.finite(text[:length]) + text[length:]


class Calls:
    """The calls of one sequence, as a parser tells them. What it tells of one whose JSON is over is content."""

    def __init__(self) -> None:
        """Begin without calls."""
        self._places: dict[int, int] = {}  # by the parser's own numbers
        self._values: list[Value] = []
        self._over = set[int]()
        self._early: dict[int, str] = {}  # arguments that came before the name

    @property
    def is_begun(self) -> bool:
        """Whether a call's name was told."""
        return bool(self._values)

    def read(self, told: Any) -> Iterator[Part]:
        """Read one of vLLM's DeltaToolCall."""
        function = told.function
        name, text = (function.name or "", function.arguments or "") if function else ("", "")
        if told.index in self._places:
            if text:
                yield from self._arguments(self._places[told.index], text, "", "")
        elif not name:
            self._early[told.index] = self._early.get(told.index, "") + text
        else:
            place = self._places[told.index] = len(self._values)
            self._values.append(Value())
            yield from self._arguments(place, self._early.pop(told.index, "") + text, told.id or new_id(), name)

    def _arguments(self, place: int, text: str, call_id: str, name: str) -> Iterator[Part]:
        """Tell of a call's text up to its end."""
        length = 0
        if place not in self._over:
            length, is_over = self._values[place].read(text)
            if is_over:
                self._over.add(place)
            yield Part("call", self._values[place].finite(text[:length]), CallPart(place, call_id, name))
        if text[length:].strip():
            yield Part("content", text[length:])
