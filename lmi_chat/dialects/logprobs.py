"""Render log-probabilities: what chat and completion show of a text's tokens, and vLLM's list for a prompt.

Shapes: OpenAI API reference, "Chat completions" (one object per token of the content) and "Completions (legacy)" (four
arrays in parallel, one entry per token of a choice); vLLM's `prompt_logprobs` (one object per token, by token id; null
for the first token, which nothing comes before).
"""

import codecs
from collections.abc import Sequence
from dataclasses import replace

from lmi_chat.chat_template import Template
from lmi_chat.codec.json_text import Json
from lmi_chat.job import Delta, Job, SamplingParams, Token, TokenLogprob


def _text(choice: TokenLogprob) -> str:
    return choice.bytes.decode("utf-8", "replace")


def of_prompt(prompt: Sequence[Token | None], top: int) -> list[Json | None]:
    """A prompt's tokens, each with its `top` likeliest alternatives."""
    return [None if token is None else _position(token, top) for token in prompt]


def _position(token: Token, top: int) -> Json:
    """The prompt's own token first, then those that are likelier or as likely, by rank."""
    shown = {token.choice.id: _ranked(token.choice, token.rank)}
    for rank, choice in enumerate(token.top[:top], 1):
        shown.setdefault(choice.id, _ranked(choice, rank))
    return shown  # type: ignore[return-value]  # JSON's writer spells the ids


def _ranked(choice: TokenLogprob, rank: int) -> Json:
    return {"logprob": choice.logprob, "rank": rank, "decoded_token": _text(choice)}


def _named(choice: TokenLogprob) -> str:
    return f"token_id:{choice.id}"


class ContentTokens:
    """The tokens that a sequence's content is made of, each when its text has come; their bytes joined are the content.

    What ended the sequence, a stop string or a token that is not shown, is none of them. A token that such a string
    begins in is shown as far as the content goes.
    """

    def __init__(self, sampling: SamplingParams, *, names_ids: bool = False) -> None:
        """Begin with no content. `names_ids`: tokens are written `token_id:7`."""
        self._is_held, self._hides_special = bool(sampling.stop), sampling.skip_special_tokens
        self._spell = _named if names_ids else _text
        self._held: list[Token] = []
        self._room = 0  # bytes of the content beyond those of the tokens that were given

    def show(self, tokens: Sequence[Token]) -> Json:
        """These tokens as chat has them."""
        return {"content": [self._shown(token) for token in tokens]}

    def take(self, delta: Delta) -> list[Token]:
        """The tokens whose text is there with this delta."""
        held, self._held = [*self._held, *delta.tokens], []
        self._room += len(delta.text.encode("utf-8", "surrogatepass"))
        is_cut = delta.finish is not None and isinstance(delta.finish.stop, str)
        if is_cut or (self._is_held and delta.finish is None):
            given, self._held = self._fitting(held)
            if is_cut and self._held and self._room:
                choice = self._held[0].choice
                given.append(replace(self._held[0], choice=replace(choice, bytes=choice.bytes[: self._room])))
            return given
        self._room -= sum(map(self._size, held))
        if held and delta.finish is not None and delta.finish.reason == "stop" and self._is_beyond(held[-1]):
            return held[:-1]
        return held

    def _fitting(self, tokens: list[Token]) -> tuple[list[Token], list[Token]]:
        """Split tokens into those whose text is there, and the others."""
        for place, token in enumerate(tokens):
            if self._size(token) > self._room:
                return tokens[:place], tokens[place:]
            self._room -= self._size(token)
        return tokens, []

    def _is_beyond(self, last: Token) -> bool:
        """Whether the content has nothing of its last token, which ended it."""
        size = self._size(last)
        return self._room <= -size if size else last.choice.is_special

    def _is_hidden(self, choice: TokenLogprob) -> bool:
        return choice.is_special and self._hides_special

    def _size(self, token: Token) -> int:
        """Its bytes of the content."""
        return 0 if self._is_hidden(token.choice) else len(token.choice.bytes)

    def _shown(self, token: Token) -> Json:
        tops = [self._entry(top, top.bytes) for top in token.top]
        own = b"" if self._is_hidden(token.choice) else token.choice.bytes
        return self._entry(token.choice, own) | {"top_logprobs": tops}

    def _entry(self, choice: TokenLogprob, own: bytes) -> Json:
        return {"token": self._spell(choice), "logprob": choice.logprob, "bytes": list(own)}


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

    def take(self, prompt: Sequence[Token | None], tokens: Sequence[Token]) -> Json:
        """The object for the prompt's tokens (if they are shown) and the next ones."""
        shown: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
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

    def _add(self, shown: Json, token: Token, *, is_first: bool = False) -> None:
        """The token itself stands first, then the likeliest; of those that read the same the likeliest is shown."""
        tops = {self._spell(token.choice): token.choice.logprob}
        for top in token.top[: self._top]:
            name = self._spell(top)
            tops[name] = max(top.logprob, tops.get(name, top.logprob))
        shown["tokens"].append(self._spell(token.choice))
        shown["token_logprobs"].append(None if is_first else token.choice.logprob)
        shown["top_logprobs"].append(None if is_first else tops)
        shown["text_offset"].append(self._at)
