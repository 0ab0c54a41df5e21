"""Read answers in the harmony format of gpt-oss, each of whose messages names its kind."""

from collections.abc import Iterator, Sequence
from typing import Any

from lmi_chat.engine.vllm.parsing.calls import Part
from lmi_chat.engine.vllm.parsing.stages import Streamed

RECEIVER = " to="
"""What a head may begin with, too: the name of whom the message is for."""


class Harmony(Streamed):
    """What vLLM's harmony parser tells, which reads ids alone.

    Where a message follows another one of its kind a line break stands between them, as in vLLM's whole answers. A call
    in an answer that may not call is content.
    """

    def __init__(self, parser: Any, request: Any, prompt_ids: Sequence[int]) -> None:
        """Begin where the prompt ends: before a message's head, or in the message that is continued."""
        super().__init__(parser, request, None)
        marks = parser.model_tokenizer.convert_tokens_to_ids
        start, self._message = marks("<|start|>"), marks("<|message|>")
        self._heads = {start, marks("<|channel|>")}
        self._ends = {marks("<|end|>"), marks("<|call|>"), marks("<|return|>")}
        self._head: list[int] | None = []  # the ids of a head that is not over
        self._given = set[str]()  # kinds of text
        self._is_first = True  # nothing is given of the message
        begun = list(prompt_ids[len(prompt_ids) - prompt_ids[::-1].index(start) :]) if start in prompt_ids else []
        if self._message in begun and begun[:1] == marks(["assistant"]):
            for token_id in begun[1:]:
                list(self.feed("", [token_id]))
            self._given.clear()

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:  # noqa: ARG002 see Stage
        """See Stage."""
        for token_id in ids:
            yield from self._told(super().feed("", [token_id]))
            if token_id == self._message:
                self._head, self._is_first = None, True
            elif self._head is not None:
                self._head.append(token_id)
            elif token_id in self._ends:
                self._head = []

    def finish(self, *, is_cut: bool) -> Iterator[Part]:
        """See Stage. Text without a head is content; a head that is cut is none."""
        head = self._head or []
        text = self._parser.model_tokenizer.decode(head, skip_special_tokens=True)
        is_head = bool(self._heads.intersection(head)) or text.startswith(RECEIVER) or RECEIVER.startswith(text)
        if text and not (is_cut and is_head):
            yield from self._told([Part("content", text)])

    def _told(self, parts: Iterator[Part] | list[Part]) -> Iterator[Part]:
        for part in parts:
            if part.kind == "call" and self._request.tools:
                yield part
                continue
            kind = "content" if part.kind == "call" else part.kind
            break_ = "\n" if self._is_first and kind in self._given else ""
            self._is_first = self._is_first and not part.text
            if part.text:
                self._given.add(kind)
                yield Part(kind, break_ + part.text)
