"""Fold the deltas of one sequence into its state; name its end and count its tokens for every dialect.

A whole answer keeps all of a sequence, a stream only what its last line or an error line shows.
"""

import codecs
from collections.abc import Mapping, Sequence

from lmi_chat.codec.json_text import Json, unescape
from lmi_chat.job import Delta, Finish, Finished, Job, Token

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


def finish_word(finish: Finish | None, words: Mapping[str, str] | None) -> str | None:
    """Why a sequence ended, by the table `words` or, without one, in OpenAI's words; None while it goes on."""
    if finish is None:
        return None
    if words is None:
        return finish.reason
    return words["stop_sequence" if isinstance(finish.stop, str) else finish.reason]


def usage(done: Finished, *, is_flat: bool = False) -> Json:
    """The usage object, in tokens. `is_flat`: LMI's, with `cached_tokens` beside the counts; else OpenAI's."""
    cached = {"cached_tokens": done.cached_tokens}
    counts = {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }
    if is_flat:
        return counts | cached
    return counts | {"prompt_tokens_details": cached, "completion_tokens_details": {"reasoning_tokens": 0}}


class SequenceState:
    """What one sequence of `job` has become so far.

    `ids` and `tokens` are all of them in order; `prompt` the prompt's tokens, if they were asked for; `shares` each
    token's own part of the text, where the dialect shows it (`cut`). A stream has `text`, `count` and `finish` alone.
    """

    __slots__ = ("_decoder", "_spelled", "_texts", "count", "finish", "ids", "job", "prompt", "shares", "tokens")

    def __init__(self, job: Job, lead: str = "") -> None:
        """Start with no token; the text begins with `lead`."""
        self.job = job
        self._texts = [lead]
        self._spelled: list[bytes] = []  # what came after `_texts`, as JSON writes it, without quotes
        self._decoder: codecs.IncrementalDecoder | None = None
        self.count = 0
        self.finish: Finish | None = None
        self.prompt: tuple[Token | None, ...] = ()
        self.ids: list[int] = []
        self.tokens: list[Token] = []
        self.shares: list[str] = []

    @property
    def text(self) -> str:
        """All of it."""
        if self._spelled:
            self._settle()
        return "".join(self._texts)

    @property
    def likelihood(self) -> float:
        """Mean log-probability of its tokens, by which sequences are ranked."""
        return sum(token.choice.logprob for token in self.tokens) / max(len(self.tokens), 1)

    def take(self, delta: Delta, *, is_shown: bool = False) -> None:
        """Add a delta. `is_shown`: a stream has told its tokens already, and they are not kept."""
        if self._spelled:
            self._settle()
        self._texts.append(delta.text)
        self.count += len(delta.ids)
        if delta.finish is not None:
            self.finish = delta.finish
        if is_shown:
            return
        self.ids += delta.ids
        self.tokens += delta.tokens
        self.prompt = self.prompt or delta.prompt

    def take_token(self, spelled: bytes) -> None:
        """Add one token of whole characters, whose text is spelled as in JSON."""
        self._spelled.append(spelled)
        self.count += 1

    def _settle(self) -> None:
        """Read the spelled tokens in one go: one by one they would cost more than all the rest."""
        self._texts.append(unescape(b"".join(self._spelled)))
        self._spelled.clear()

    def cut(self, delta: Delta) -> list[str]:
        """The delta's text cut along its tokens: each gets as many characters as its own bytes complete.

        Deltas must come in order: a character may begin in one and end in the next.
        """
        decoder = self._decoder = self._decoder or codecs.getincrementaldecoder("utf-8")("ignore")
        shares, start = [], 0
        for token in delta.tokens:
            end = start + (0 if token.choice.is_special else len(decoder.decode(token.choice.bytes)))
            shares.append(delta.text[start:end])
            start = min(end, len(delta.text))
        if shares:
            shares[-1] += delta.text[start:]
        return shares


def likeliest(states: Sequence[SequenceState], most: int) -> list[SequenceState]:
    """The `most` likeliest, best first; among equals the first stays first."""
    return sorted(states, key=lambda state: -state.likelihood)[:most]
