"""Read the calls of an answer that is JSON alone, as a grammar makes it where a call is required or named."""

import json
import re
from collections.abc import Iterator

from lmi_chat.engine.vllm.parsing.calls import Part, Value, new_id
from lmi_chat.job import CallPart

BLANK = " \t\r\n"
HEAD = re.compile(
    r'\s*\}?\s*[\[,]\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:parameters|arguments)"\s*:\s*(?=\S)'
)
"""What stands before a call's arguments: `[`, or the end of the call before and a comma; then the name."""


class Named:
    """The whole text is the arguments of one call."""

    passing = None

    def __init__(self, name: str) -> None:
        """`name` of the function."""
        self._name, self._is_begun = name, False

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        if not self._is_begun:
            text = text.lstrip(BLANK)
        if text:
            yield Part("call", text, CallPart(0) if self._is_begun else CallPart(0, new_id(), self._name))
            self._is_begun = True

    def finish(self, *, is_cut: bool) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        yield from ()


class Required:
    """The text is an array of objects with `name`, then `parameters`, whose own text is a call's arguments.

    What is no such array is content.
    """

    passing = None

    def __init__(self) -> None:
        """Begin before the array."""
        self._text = ""
        self._place = -1
        self._scan: Value | None = None  # of the arguments that are open
        self._is_content = False

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        self._text += text
        while self._text:
            if self._is_content or (self._place < 0 and not self._text.lstrip(BLANK).startswith("[")):
                if self._is_content or self._text.strip(BLANK):
                    self._is_content = True
                    yield Part("content", self._take(len(self._text)))
                return
            if self._scan is None:
                head = HEAD.match(self._text)
                if head is None:
                    return
                self._place, self._scan = self._place + 1, Value()
                self._take(head.end())
                call = CallPart(self._place, new_id(), json.loads(head[1]))
            else:
                call = CallPart(self._place)
            length, is_over = self._scan.read(self._text)
            yield Part("call", self._take(length), call)
            if is_over:
                self._scan = None

    def finish(self, *, is_cut: bool) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        if self._place < 0 and self._text:
            yield Part("content", self._take(len(self._text)))

    def _take(self, length: int) -> str:
        taken, self._text = self._text[:length], self._text[length:]
        return taken
