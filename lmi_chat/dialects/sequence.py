"""Fold the deltas of one sequence into its state; name its end and count its tokens for every dialect.

A whole answer keeps all of a sequence, a stream only what its last line or an error line shows.
"""

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lmi_chat.codec.json_text import unescape
from lmi_chat.dialects.answer import CompletionUsage, PromptTokensDetails, TokenCounts
from lmi_chat.job import CallPart, Delta, Finish, Finished, Job, SamplingParams, Token

INCOMPLETE = "\ufffd"
# By a Finish's reason; a stop string has a word of its own.
LMI_FINISH = {
    "stop": "eos_token",
    "length": "length",
    "abort": "abort",
    "time_limit": "time_limit",
    "stop_sequence": "stop_sequence",
}
TGI_FINISH = LMI_FINISH | {"time_limit": "length"}
"""TGI's clients know eos_token, length and stop_sequence alone; an answer that time cut is one that a bound cut."""


CALLED = "tool_calls"
"""OpenAI's word for the end of a sequence that called a tool and was not cut."""


def finish_word(finish: Finish | None, words: Mapping[str, str] | None, *, has_called: bool = False) -> str | None:
    """Why a sequence ended, by the table `words` or, without one, in OpenAI's words; None while it goes on.

    `has_called`: it called a tool of its own choice, which only OpenAI's words tell.
    """
    if finish is None:
        return None
    if words is None:
        return CALLED if has_called and finish.reason == "stop" else finish.reason
    return words["stop_sequence" if isinstance(finish.stop, str) else finish.reason]


def counts(done: Finished) -> TokenCounts:
    """The counts that every usage object begins with."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }


def usage(done: Finished) -> CompletionUsage:
    """OpenAI's usage object, in tokens; those of media as vLLM tells them."""
    details: PromptTokensDetails = {"cached_tokens": done.cached_tokens}
    if done.media_tokens:
        details["multimodal_tokens"] = dict(done.media_tokens)
    return {
        **counts(done),
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": done.reasoning_tokens},
    }


class TextTokens:
    """A sequence's tokens, each when its text is there: stop strings hold text back, and one that is found cuts it.

    What is told by bytes: those of the tokens that have a text, joined, are the sequence's text.
    Where the text is taken apart it lacks what stood between the parts. Then each token comes with its delta, but for
    one that may have ended the sequence, which comes with the next.
    """

    __slots__ = ("_held", "_hides_special", "_is_held_back", "_is_parsed", "_room", "_stop_ids")

    def __init__(self, sampling: SamplingParams, *, is_parsed: bool = False) -> None:
        """Begin without text. `is_parsed`: it is taken apart."""
        self._is_held_back, self._hides_special = bool(sampling.stop), sampling.skip_special_tokens
        self._is_parsed, self._stop_ids = is_parsed, frozenset(sampling.stop_token_ids)
        self._held: list[Token] = []
        self._room = 0  # bytes of the text beyond those of the tokens that were given

    def take(self, delta: Delta) -> tuple[list[Token], list[Token]]:
        """The tokens whose text is there with this delta, and those that ended the sequence and have none.

        A token that a stop string begins in comes with the bytes before that.
        """
        if self._is_parsed:
            return self._take_parsed(delta)
        self._room += len(delta.text.encode("utf-8", "surrogatepass"))
        if delta.finish is None and not self._is_held_back:
            for token in delta.tokens:
                self._room -= self._size(token)
            return delta.tokens, []
        held, self._held = [*self._held, *delta.tokens], []
        is_cut = delta.finish is not None and isinstance(delta.finish.stop, str)
        if is_cut or delta.finish is None:
            given, left = self._fitting(held)
            if not is_cut:
                self._held = left
                return given, []
            if left and self._room > 0:
                choice = left[0].choice
                given.append(replace(left.pop(0), choice=replace(choice, bytes=choice.bytes[: self._room])))
            return given, left
        self._room -= sum(map(self._size, held))
        if held and delta.finish.reason == "stop" and self._is_beyond(held[-1]):
            return held[:-1], held[-1:]
        return held, []

    def _take_parsed(self, delta: Delta) -> tuple[list[Token], list[Token]]:
        """The same by what the tokens are: the end may come in a delta after the one with the last token."""
        tokens, self._held = [*self._held, *delta.tokens] if self._held else delta.tokens, []
        finish = delta.finish
        if not tokens or not (tokens[-1].choice.is_special or tokens[-1].choice.id in self._stop_ids):
            return tokens, []
        if finish is None:
            self._held = tokens[-1:]
            return tokens[:-1], []
        if finish.reason == "stop" and not isinstance(finish.stop, str):
            return tokens[:-1], tokens[-1:]
        return tokens, []

    def _fitting(self, tokens: list[Token]) -> tuple[list[Token], list[Token]]:
        """Split tokens into those whose text is there, and the others."""
        for place, token in enumerate(tokens):
            if self._size(token) > self._room:
                return tokens[:place], tokens[place:]
            self._room -= self._size(token)
        return tokens, []

    def _is_beyond(self, last: Token) -> bool:
        """Whether the text has nothing of its last token."""
        size = self._size(last)
        return self._room <= -size if size else last.choice.is_special

    def _size(self, token: Token) -> int:
        """Its bytes of the text."""
        return 0 if token.choice.is_special and self._hides_special else len(token.choice.bytes)


@dataclass(slots=True)
class ToolCall:
    """A call of a tool as far as it has come; `parts` joined are its arguments, JSON text unless it was cut."""

    id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """All of them so far, as they came."""
        return "".join(self.parts)


class SequenceState:
    """What one sequence of `job` has become so far.

    `text` is its content, `reasoning` and `calls` are what was taken out of it, `ids` all of them in order. A stream
    has `text`, `reasoning`, `calls`, `count` and `finish` alone. Tokens with their log-probabilities
    are not kept: a whole answer writes each when it comes.
    """

    __slots__ = (
        "_decoder",
        "_logprob",
        "_partial",
        "_reasoning",
        "_scored",
        "_spelled",
        "_text_tokens",
        "_texts",
        "calls",
        "count",
        "finish",
        "ids",
        "job",
    )

    def __init__(self, job: Job, lead: str = "") -> None:
        """Start with no token; the text begins with `lead`."""
        self.job = job
        self._texts = [lead]
        self._spelled: list[bytes] = []  # what came after `_texts`, as JSON writes it, without quotes
        self._decoder: codecs.IncrementalDecoder | None = None
        self._text_tokens: TextTokens | None = None
        self._partial = b""
        self._reasoning: list[str] = []
        self.calls: list[ToolCall] = []
        self.count = 0
        self.finish: Finish | None = None
        self.ids: list[int] = []
        self._logprob, self._scored = 0.0, 0

    @property
    def text(self) -> str:
        """All of it."""
        if self._spelled:
            self._settle()
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        """All of it."""
        return "".join(self._reasoning)

    @property
    def likelihood(self) -> float:
        """Mean log-probability of its tokens, by which sequences are ranked."""
        return self._logprob / max(self._scored, 1)

    def take(self, delta: Delta, *, is_shown: bool = False) -> None:
        """Add a delta. `is_shown`: a stream has told its tokens already, and they are not kept."""
        if self._spelled:
            self._settle()
        if delta.call is not None:
            self._take_call(delta.call, delta.text)
        else:
            (self._reasoning if delta.kind == "reasoning" else self._texts).append(delta.text)
        self.count += len(delta.ids)
        if delta.finish is not None:
            self.finish = delta.finish
        if is_shown:
            return
        self.ids += delta.ids
        for token in delta.tokens:
            self._logprob += token.choice.logprob
        self._scored += len(delta.tokens)

    def _take_call(self, part: CallPart, text: str) -> None:
        while len(self.calls) <= part.place:
            self.calls.append(ToolCall())
        call = self.calls[part.place]
        call.id, call.name = call.id or part.id, call.name or part.name
        call.parts.append(text)

    def take_token(self, spelled: bytes) -> None:
        """Add one token of whole characters, whose text is spelled as in JSON."""
        self._spelled.append(spelled)
        self.count += 1

    def _settle(self) -> None:
        """Read the spelled tokens in one go: one by one they would cost more than all the rest."""
        self._texts.append(unescape(b"".join(self._spelled)))
        self._spelled.clear()

    def spell(self, delta: Delta) -> list[tuple[Token, str]]:
        """The delta's tokens, each with its text: the characters that its own bytes complete.

        That is cut out of the delta's text, which knows a tokenizer's ways with spaces. Where stop strings hold text
        back, tokens wait for theirs, and what ended the sequence has none.
        Deltas must come in order: a character may begin in one and end in the next.
        """
        if not self.job.sampling.stop:
            return self._cut(delta)
        known = self._text_tokens = self._text_tokens or TextTokens(self.job.sampling)
        given, beyond = known.take(delta)
        return [*((token, self._complete(token)) for token in given), *((token, "") for token in beyond)]

    def _is_hidden(self, token: Token) -> bool:
        return token.choice.is_special and self.job.sampling.skip_special_tokens

    def _complete(self, token: Token) -> str:
        """The token's text where it ends with a whole character; else "", and the next one's begins with it.

        So does the engine's text grow.
        """
        if self._is_hidden(token):
            return ""
        self._partial += token.choice.bytes
        text = self._partial.decode("utf-8", "replace")
        if text.endswith(INCOMPLETE):
            return ""
        self._partial = b""
        return text

    def _cut(self, delta: Delta) -> list[tuple[Token, str]]:
        """The delta's tokens with so much of its text as each completes; what is over is the last one's."""
        decoder = self._decoder = self._decoder or codecs.getincrementaldecoder("utf-8")("replace")
        shares, start = [], 0
        for token in delta.tokens:
            length = 0 if self._is_hidden(token) else len(decoder.decode(token.choice.bytes))
            shares.append(delta.text[start : start + length])
            start += len(shares[-1])
        if shares:
            shares[-1] += delta.text[start:]
        return list(zip(delta.tokens, shares, strict=True))


def likeliest(states: Sequence[SequenceState], most: int) -> list[SequenceState]:
    """The `most` likeliest, best first; among equals the first stays first."""
    return sorted(states, key=lambda state: -state.likelihood)[:most]
