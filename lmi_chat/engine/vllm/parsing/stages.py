"""Read reasoning, content and calls out of the text of one sequence, token by token, by vLLM's parsers."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from lmi_chat.engine.vllm.parsing.call_steps import CallSteps
from lmi_chat.engine.vllm.parsing.calls import Calls, Part, finite, new_id
from lmi_chat.job import CallPart, DeltaKind


class Stage(Protocol):
    """Something that reads a sequence's text piece by piece."""

    @property
    def passing(self) -> DeltaKind | None:
        """What the next token is if it is PLAIN: it need not be read. None: it must be."""

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:
        """Read one token, or none with the text that is left. `is_last`: the model ended the sequence with it."""

    def finish(self, *, is_cut: bool) -> Iterator[Part]:
        """Give what was held. `is_cut`: the model had not ended the sequence."""


class Plain:
    """All is content, after `lead`."""

    def __init__(self, lead: str = "") -> None:
        """Begin before the first text."""
        self._lead = lead

    @property
    def passing(self) -> DeltaKind | None:
        """See Stage."""
        return None if self._lead else "content"

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        if text:
            lead, self._lead = self._lead, ""
            yield Part("content", lead + text)

    def finish(self, *, is_cut: bool) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        yield from ()


class Marked:
    """What stands before one of the texts `ends` is reasoning, the rest is content, up to `tail`."""

    passing = None

    def __init__(self, starts: tuple[str, ...], ends: tuple[str, ...], tail: str = "") -> None:
        """A start that is written is left out."""
        self._starts, self._ends, self._tail = starts, ends, tail
        self._text = ""
        self._is_started = self._is_over = False

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        self._text += text
        if not self._is_started:
            begun = self._text.lstrip()
            if any(len(begun) < len(start) and start.startswith(begun) for start in self._starts):
                return
            self._is_started = True
            start = next((start for start in self._starts if begun.startswith(start)), "")
            self._text = begun[len(start) :] if start else self._text
        if not self._is_over:
            found = [(place, end) for end in self._ends if (place := self._text.find(end)) >= 0]
            if not found:
                yield from self._give("reasoning", max(overlap(self._text, end) for end in self._ends))
                return
            place, end = min(found)
            rest, self._text = self._text[place + len(end) :], self._text[:place]
            yield from self._give("reasoning", 0)
            self._text, self._is_over = rest, True
        held = overlap(self._text, self._tail) if self._tail else 0
        yield from self._give("content", len(self._tail) if self._tail and self._tail in self._text else held)

    def finish(self, *, is_cut: bool) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        if self._text != self._tail:
            yield from self._give("content" if self._is_over else "reasoning", 0)

    def _give(self, kind: DeltaKind, held: int) -> Iterator[Part]:
        """Give the text but for its last `held` characters."""
        cut = len(self._text) - held
        given, self._text = self._text[:cut], self._text[cut:]
        if given:
            yield Part(kind, given)


BEGINNING = r"""[^\W_]|[!"%&'(),.:;?$+]|[^\x00-\x7f\s｜▁]"""
"""What no mark of a parser begins with: letters, digits, some signs, and beyond ASCII all but DeepSeek's bars."""
PLAIN = re.compile(rf"[ ]?(?:{BEGINNING})(?:[ -]*(?:{BEGINNING}))*-?\Z")
"""Text that begins no mark, and that no parser holds for what may follow: no space at its end."""


class Streamed:
    """What vLLM's parser tells of the text as it comes, fed one token at a time, or from a call on in `steps`.

    While the last token passed through as it was, the next one passes by the parser if it is PLAIN: the parser would
    only give it back, and some take ever longer for that.
    """

    def __init__(self, parser: Any, request: Any, prompt_ids: list[int] | None, steps: CallSteps | None = None) -> None:
        """`request` is vLLM's; `prompt_ids` None: the prompt has no say in where the answer begins."""
        self._parser, self._request, self._prompt_ids = parser, request, prompt_ids
        self._calls, self._steps = Calls(), steps
        self.passing: DeltaKind | None = None  # what the last token was, if it passed through as it was

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:
        """See Stage."""
        if self.passing and not is_last and (not text or PLAIN.match(text)):
            if text:  # else a part of a character
                yield Part(self.passing, text)
        elif self._steps is None or not self._calls.is_begun:
            yield from self._fed(text, ids, is_last=is_last)
        else:
            yield from self._gathered(self._steps, text, ids, is_last=is_last)

    def _gathered(self, steps: CallSteps, text: str, ids: list[int], *, is_last: bool) -> Iterator[Part]:
        """Feed the steps that end here; the last token is one of its own."""
        self.passing = None
        for step in steps.rest() if is_last else steps.add(text, ids):
            yield from self._fed(*step)
        if is_last:
            yield from self._fed(text, ids, is_last=True)

    def _fed(self, text: str, ids: list[int], *, is_last: bool = False) -> list[Part]:
        prompt_ids, self._prompt_ids = self._prompt_ids, None
        message = self._parser.parse_delta(text, ids, self._request, prompt_ids, finished=is_last)
        parts = list(self._parts(message))
        passed = len(parts) == 1 and parts[0].kind != "call" and parts[0].text == text
        self.passing = parts[0].kind if passed else None
        return parts

    def finish(self, *, is_cut: bool) -> Iterator[Part]:
        """See Stage. A parser that closes the JSON of a call which was cut is not believed."""
        for step in self._steps.rest() if self._steps else ():
            yield from self._fed(*step)
        if not is_cut:
            return
        message = self._parser.parse_delta("", [], self._request, None, finished=True)
        if message is not None:
            message.tool_calls = []
        yield from self._parts(message)

    def _parts(self, message: Any) -> Iterator[Part]:
        if message is None:
            return
        if message.reasoning:
            yield Part("reasoning", message.reasoning)
        if message.content:
            yield Part("content", message.content)
        for call in message.tool_calls or ():
            yield from self._calls.read(call)


class Whole:
    """What vLLM's parser tells of the whole text from the first of `markers` on; the content before that streams.

    Without markers nothing is told before the end. A call that is not whole stays as it was written, as content.
    """

    passing = None

    def __init__(self, parser: Any, request: Any, markers: tuple[str, ...], end: re.Pattern[str] | None = None) -> None:
        """`request` is vLLM's. `end`: what a call ends with, where the parser takes one without it for whole."""
        self._parser, self._request, self._markers, self._end = parser, request, markers, end
        self._text, self._ids = "", list[int]()
        self._is_marked = not markers

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        self._text += text
        self._ids += ids
        if self._is_marked:
            return
        places = [place for marker in self._markers if (place := self._text.find(marker)) >= 0]
        self._is_marked = bool(places)
        held = max(overlap(self._text, marker) for marker in self._markers)
        free = min(places, default=len(self._text) - held)
        if free:
            given, self._text = self._text[:free], self._text[free:]
            yield Part("content", given)

    def finish(self, *, is_cut: bool) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        if not self._text:
            return
        whole = len(self._text)
        if self._end is not None:
            whole = max((found.end() for found in self._end.finditer(self._text)), default=0)
        text, rest, self._text = self._text[:whole], self._text[whole:], ""
        reasoning, content, calls = self._parser.parse(
            text, self._request, enable_auto_tools=True, model_output_token_ids=self._ids
        )
        if reasoning:
            yield Part("reasoning", reasoning)
        if content:
            yield Part("content", content)
        for place, call in enumerate(calls or ()):
            yield Part("call", finite(call.arguments or ""), CallPart(place, call.id or new_id(), call.name))
        if rest:
            yield Part("content", rest)


def overlap(text: str, marker: str) -> int:
    """Count the last characters of a text that may be the beginning of `marker`."""
    most = min(len(text), len(marker) - 1)
    return next((length for length in range(most, 0, -1) if text.endswith(marker[:length])), 0)


class Chain:
    """Two stages: the content of the first is read by the second."""

    def __init__(self, first: Stage, second: Stage) -> None:
        """See above."""
        self._first, self._second = first, second

    @property
    def passing(self) -> DeltaKind | None:
        """See Stage."""
        return self._second.passing if self._first.passing == "content" else self._first.passing

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:
        """See Stage."""
        for part in self._first.feed(text, ids, is_last=is_last):
            yield from self._second.feed(part.text, ids) if part.kind == "content" else (part,)

    def finish(self, *, is_cut: bool) -> Iterator[Part]:
        """See Stage."""
        for part in self._first.finish(is_cut=is_cut):
            yield from self._second.feed(part.text, []) if part.kind == "content" else (part,)
        yield from self._second.finish(is_cut=is_cut)


class Guarded:
    """A stage that is foreign code: where it fails, the rest of the text is content."""

    def __init__(self, stage: Stage, on_failure: Callable[[Exception], None]) -> None:
        """`on_failure` is called where an exception is caught, once."""
        self._stage: Stage | None = stage
        self._on_failure = on_failure
        self._silent = ""  # what was read since it last told something

    @property
    def passing(self) -> DeltaKind | None:
        """See Stage."""
        return self._stage.passing if self._stage is not None and not self._silent else None

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:
        """See Stage."""
        self._silent += text
        if self._stage is not None:
            try:
                parts = list(self._stage.feed(text, ids, is_last=is_last))
            except Exception as error:  # noqa: BLE001 foreign code
                self._fail(error)
            else:
                if parts:
                    self._silent = ""
                yield from parts
                return
        yield from self._rest()

    def finish(self, *, is_cut: bool) -> Iterator[Part]:
        """See Stage."""
        if self._stage is not None:
            try:
                parts = list(self._stage.finish(is_cut=is_cut))
            except Exception as error:  # noqa: BLE001 foreign code
                self._fail(error)
            else:
                yield from parts
                return
        yield from self._rest()

    def _fail(self, error: Exception) -> None:
        self._stage = None
        self._on_failure(error)

    def _rest(self) -> Iterator[Part]:
        text, self._silent = self._silent, ""
        if text:
            yield Part("content", text)
