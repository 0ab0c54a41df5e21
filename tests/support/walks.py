"""Walk through a constraint as a model would that knows nothing: any allowed token, then the shortest way to an end."""

import random
from collections.abc import Sequence
from typing import Any

from lmi_chat.engine.vllm.structured_output import trials
from lmi_chat.job import OutputConstraint

STEPS_MOST = 2000
FEW = 12  # of the first, which are single characters
MANY = 1000  # so many tokens are allowed within a text only
ENDS_OF_TEXT, ENDS = ('"', "<"), ("}", "]", '"')


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
        import numpy as np
        from llguidance.numpy import fill_next_token_bitmask

        matcher, ids = self.matcher(constraint), list[int]()
        while len(ids) < STEPS_MOST:
            fill_next_token_bitmask(matcher, self._mask, 0)
            allowed = np.flatnonzero(np.unpackbits(self._mask[0].view(np.uint8), bitorder="little"))
            assert allowed.size, self._tokenizer.decode(ids)
            if len(ids) < free:
                chosen = [int(allowed[chance.randrange(allowed.size)])]
            else:
                chosen = self._closing(matcher, allowed, chance)
            if chosen == [self._end]:
                return ids
            assert matcher.consume_tokens(chosen), (self._tokenizer.decode(ids), chosen)
            ids += chosen
        raise AssertionError(f"no end: {self._tokenizer.decode(ids)}")

    def _closing(self, matcher: Any, allowed: Any, chance: random.Random) -> list[int]:
        if self._may(self._end):
            return [self._end]
        for ids in self._closers:
            if matcher.validate_tokens(ids) == len(ids):
                return ids
        for token in self._in_text if allowed.size > MANY else self._outside:
            if self._may(token):
                return [token]
        return [int(allowed[chance.randrange(min(FEW, allowed.size))])]

    def _may(self, token: int) -> bool:
        return bool(int(self._mask[0][token // 32]) >> token % 32 & 1)
