"""Render log-probabilities: of a content's tokens for chat, of a choice's for completion, of a prompt's as vLLM does.

Shapes: OpenAI API reference, "Chat completions" (one object per token of the content) and "Completions (legacy)" (four
arrays in parallel, one entry per token of a choice); vLLM's `prompt_logprobs` (one object per token, by token id; null
for the first token, which nothing comes before).
"""

import codecs
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmi_chat.chat_template import Template
from lmi_chat.codec.json_text import Array
from lmi_chat.dialects.answer import PromptLogprobs, RankedToken
from lmi_chat.dialects.chat.answer import ChatChosenToken, ChatLogprobs, ChatTokenLogprob
from lmi_chat.dialects.completion.answer import CompletionLogprobs
from lmi_chat.dialects.sequence import TextTokens
from lmi_chat.job import Delta, Job, SamplingParams, Token, TokenLogprob

NO_CONTENT, NO_LOGPROBS, NO_PROMPT_LOGPROBS = b'"content":[]', b'"logprobs":null', b'"prompt_logprobs":[]'
"""Where a whole answer's document is filled with what was written while its tokens came."""


def _text(choice: TokenLogprob) -> str:
    return choice.bytes.decode("utf-8", "replace")


def of_prompt(prompt: Sequence[Token | None], top: int) -> PromptLogprobs:
    """A prompt's tokens, each with its `top` likeliest alternatives."""
    return [None if token is None else _position(token, top) for token in prompt]


def _position(token: Token, top: int) -> dict[str, RankedToken]:
    """The prompt's own token first, then those that are likelier or as likely, by rank."""
    shown = {token.choice.id: _ranked(token.choice, token.rank)}
    for rank, choice in enumerate(token.top[:top], 1):
        shown.setdefault(choice.id, _ranked(choice, rank))
    return shown  # type: ignore[return-value]  # JSON's writer spells the ids


def _ranked(choice: TokenLogprob, rank: int) -> RankedToken:
    return {"logprob": choice.logprob, "rank": rank, "decoded_token": _text(choice)}


def _named(choice: TokenLogprob) -> str:
    return f"token_id:{choice.id}"


def of_content(tokens: Sequence[Token], sampling: SamplingParams, *, names_ids: bool = False) -> ChatLogprobs:
    """A chat's object for tokens of its content: bytes joined are the content, so a hidden token has none.

    `names_ids`: tokens are written `token_id:7`.
    """
    spell = _named if names_ids else _text
    return {"content": [_entry(token, spell, hides_special=sampling.skip_special_tokens) for token in tokens]}


def _entry(token: Token, spell: Callable[[TokenLogprob], str], *, hides_special: bool) -> ChatChosenToken:
    choice = token.choice
    own = [] if choice.is_special and hides_special else list(choice.bytes)
    tops: list[ChatTokenLogprob] = [
        {"token": spell(top), "logprob": top.logprob, "bytes": list(top.bytes)} for top in token.top
    ]
    return {"token": spell(choice), "logprob": choice.logprob, "bytes": own, "top_logprobs": tops}


class ContentLogprobs:
    """The `content` of a whole chat's object for one sequence, written as its tokens come."""

    def __init__(self, job: Job, *, names_ids: bool) -> None:
        """Begin empty. `names_ids`: tokens are written `token_id:7`."""
        self._sampling, self._names_ids = job.sampling, names_ids
        self._tokens, self._content = TextTokens(job.sampling, is_parsed=job.parsing is not None), Array()

    def take(self, delta: Delta) -> int:
        """Write what the delta has of the content; returns how many bytes that takes."""
        tokens, _ = self._tokens.take(delta)
        return self._content.add(of_content(tokens, self._sampling, names_ids=self._names_ids)["content"])

    def written(self) -> bytes:
        """The array."""
        return self._content.written()


class Scores:
    """One choice's tokens, with the offset in characters at which each begins in the choice's text.

    A token that is a part of a character begins where the character does; special tokens that the text leaves out have
    no length.
    """

    def __init__(self, job: Job, template: Template, top: int, *, names_ids: bool = False) -> None:
        """Start at the beginning of the text, with `top` alternatives per token.

        `template` spells the token that no log-probability comes for; `names_ids`: tokens are written `token_id:7`.
        """
        self._job, self._template, self._top = job, template, top
        self._spell = _named if names_ids else _text
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def take(self, prompt: Sequence[Token | None], tokens: Sequence[Token]) -> CompletionLogprobs:
        """The object for the prompt's tokens (if they are shown) and the next ones."""
        shown: CompletionLogprobs = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in prompt:
            choice = token.choice if token else self._first()
            self._add(shown, token or Token(choice), is_first=token is None)
            self._at += self._prompt_length(choice)
        if prompt:
            self._at = len(self._job.prompt_text)
            self._decoder.reset()
        for token in tokens:
            self._add(shown, token)
            is_hidden = token.choice.is_special and self._job.sampling.skip_special_tokens
            self._at += 0 if is_hidden else len(self._decoder.decode(token.choice.bytes))
        return shown

    def _first(self) -> TokenLogprob:
        """The prompt's first token: nothing comes before it, so it has no log-probability."""
        text = self._template.decode(self._job.prompt_ids[:1])
        return TokenLogprob(self._job.prompt_ids[0], 0.0, text.encode(), is_special=True)

    def _prompt_length(self, choice: TokenLogprob) -> int:
        """A prompt's special token may stand in its text (it was spelled there) or not (the tokenizer added it)."""
        if choice.is_special:
            text = _text(choice)
            return len(text) if self._job.prompt_text.startswith(text, self._at) else 0
        length = len(self._decoder.decode(choice.bytes))
        is_padded = self._at == 0 and choice.bytes[:1] == b" " and self._job.prompt_text[:1] != " "
        return length - is_padded  # SentencePiece begins a text with a space that it has not

    def _add(self, shown: CompletionLogprobs, token: Token, *, is_first: bool = False) -> None:
        """The token itself stands first, then the likeliest; of those that read the same the likeliest is shown."""
        tops = {self._spell(token.choice): token.choice.logprob}
        for top in token.top[: self._top]:
            name = self._spell(top)
            tops[name] = max(top.logprob, tops.get(name, top.logprob))
        shown["tokens"].append(self._spell(token.choice))
        shown["token_logprobs"].append(None if is_first else token.choice.logprob)
        shown["top_logprobs"].append(None if is_first else tops)
        shown["text_offset"].append(self._at)


class ChoiceLogprobs:
    """A whole completion's object for one choice, written as its tokens come."""

    def __init__(self, scores: Scores) -> None:
        """Write what `scores` gives."""
        self._scores = scores
        self._arrays = {name: Array() for name in CompletionLogprobs.__annotations__}

    def take(self, delta: Delta) -> int:
        """Write what the delta has; returns how many bytes that takes."""
        shown: Mapping[str, Any] = self._scores.take(delta.prompt, delta.tokens)
        return sum(self._arrays[name].add(items) for name, items in shown.items())

    def written(self) -> bytes:
        """The object."""
        return b"{%b}" % b",".join(
            b'"%b":%b' % (name.encode(), array.written()) for name, array in self._arrays.items()
        )
