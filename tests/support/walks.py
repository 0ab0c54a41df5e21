"""Walk through a constraint as a model would that knows nothing: any allowed token, then the shortest way to an end."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmi_chat.engine.vllm.structured_output import trials
from lmi_chat.job import OutputConstraint

STEPS_MOST = 2000
FEW = 16  # words of the mask: the first 512 tokens, among them all single characters
MANY = 200  # so many words of the mask have an allowed token within a text only
ENDS_OF_TEXT, ENDS = ('"',), ("}", "]", '"')
HINTS, HINTED = ("123", "y"), 0.3  # what the patterns of tests ask for, and how often it is tried


class Walker:
    """Random walks by the masks that the engine would have. `closers`: the texts that end what is open."""

    def __init__(self, tokenizer: Any, closers: Sequence[str] = ()) -> None:
        """Walk over the tokens of a transformers tokenizer."""
        import llguidance.hf
        from llguidance.numpy import allocate_token_bitmask

        self._tokenizer, self._end = tokenizer, tokenizer.eos_token_id
        self._known = llguidance.hf.from_tokenizer(tokenizer, len(tokenizer))
        self._mask = allocate_token_bitmask(1, self._known.vocab_size)
        self._closers = [self.encode(one) for one in closers]
        self._hints = [self.encode(one) for one in HINTS]
        self._in_text = [self.encode(one)[0] for one in ENDS_OF_TEXT]
        self._outside = [self.encode(one)[0] for one in ENDS]

    def encode(self, text: str) -> list[int]:
        """Give the canonical tokens of `text`."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def matcher(self, constraint: OutputConstraint) -> Any:
        """Compile a constraint as the engine does."""
        import llguidance

        kind, text = trials.source(constraint)
        compiled = (
            llguidance.LLMatcher.grammar_from_json_schema(text)
            if kind == "json"
            else llguidance.grammar_from(kind, text)  # type: ignore[arg-type]
        )
        matcher = llguidance.LLMatcher(self._known, compiled, log_level=0)
        assert not matcher.is_error(), (matcher.get_error()[:400], text)
        return matcher

    def accepts(self, constraint: OutputConstraint, text: str) -> bool:
        """Whether `text` may be a whole answer."""
        matcher, ids = self.matcher(constraint), self.encode(text)
        return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())

    def walk(self, constraint: OutputConstraint, chance: random.Random, free: int) -> list[int]:
        """Choose `free` tokens at random, then close what is open; the end of the sequence is left out."""
        from llguidance.numpy import fill_next_token_bitmask

        matcher, ids = self.matcher(constraint), list[int]()
        while len(ids) < STEPS_MOST:
            fill_next_token_bitmask(matcher, self._mask, 0)
            if len(ids) < free:
                allowed = self._allowed()
                assert allowed.size, self._tokenizer.decode(ids)
                chosen = [int(allowed[chance.randrange(allowed.size)])]
            else:
                chosen = self._closing(matcher, chance)
            if chosen == [self._end]:
                return ids
            assert matcher.consume_tokens(chosen), (self._tokenizer.decode(ids), chosen)
            ids += chosen
        raise AssertionError(f"no end: {self._tokenizer.decode(ids)}")

    def _allowed(self, words: int | None = None) -> Any:
        """The allowed tokens, of the first `words` words of the mask."""
        return np.flatnonzero(np.unpackbits(self._mask[0][:words].view(np.uint8), bitorder="little"))

    def _closing(self, matcher: Any, chance: random.Random) -> list[int]:
        if self._may(self._end):
            return [self._end]
        for ids in self._closers:
            if chance.random() > HINTED and matcher.validate_tokens(ids) == len(ids):
                return ids
        is_text = np.count_nonzero(self._mask) > MANY
        for token in [] if is_text and chance.random() < HINTED else self._in_text if is_text else self._outside:
            if self._may(token):
                return [token]
        for ids in self._hints:
            if is_text and chance.random() < HINTED and matcher.validate_tokens(ids) == len(ids):
                return ids
        few = self._allowed(FEW)
        few = few if few.size else self._allowed()
        return [int(few[chance.randrange(few.size)])]

    def _may(self, token: int) -> bool:
        return bool(int(self._mask[0][token // 32]) >> token % 32 & 1)
