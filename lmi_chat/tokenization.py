"""Tokenise texts by the fastest encoder that gives a tokenizer's own ids.

fastokens reads what Hugging Face's library does and tokenises some forty times as fast. It is taken where it gives the
same ids for PROBES texts at the start: words, spaces, numbers and signs of many scripts, and the tokenizer's own added
tokens between them.
"""

import copy
import logging
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

from lmi_chat.text import echo

SHORT_CHARS = 4096
"""A text of so many characters is tokenised within a few milliseconds."""
PROBES, PIECES, ADDED = 400, 12, 512
"""Texts that are tried out, how many pieces one has at most, and how many added tokens occur in them."""
WHOLE_EACH = 16
"""One of so many texts is tried with the special tokens that stand around a prompt, too."""
WORDS = (
    *("the", " and", "Hello", " world", "don't", "WE'LL", "I'm", "x_y", "camelCase", " naïve", "façade", "Übergröße"),
    *("12", "1234567", " 3.14", "0x1F", "²", "½", "١٢٣", "..", "...", "!?", ";)", " //", "---", "\\n", '"a"', "`", "$"),
    *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u200b", "\u2028", "\ufeff"),
    *("汉字", "こんにちは", "한국어", "สวัสดี", "Привет", " мир", "שלום", "हिन्दी", "e\u0301", "ﬁ", "Å", "K"),
    *("🌟", "👩‍👩‍👧‍👦", "🇩🇪", "🏳️‍🌈", "\u0301", "\x00", "\x7f", "\x85", "\ufffd", "\ue000", "▁", "Ġ", "</s>", "<0x0A>"),
)
RANGES = (
    (0x20, 0x7F),
    (0x20, 0x7F),
    (0xA0, 0x2FF),
    (0x300, 0x7FF),
    (0x800, 0x33FF),
    (0x3400, 0xD7FF),
    (0xE000, 0x2FFFF),
)
"""Of characters, from which some pieces are drawn; surrogates are none."""
log = logging.getLogger(__name__)


class Tokenizer(Protocol):
    """The method of a transformers tokenizer that is used where it has no Rust tokenizer."""

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        """Tokenise a text."""


class Encoder:
    """Tokenises texts for one tokenizer, from any thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Try out the fast encoder."""
        self._tokenizer = tokenizer
        self._backend = _backend(tokenizer)
        self._fast = _fast(self._backend)

    @property
    def is_fast(self) -> bool:
        """Whether fastokens does the work."""
        return self._fast is not None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokenise a text."""
        if self._backend is None:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        ids: list[int] = self._encoding(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_part(self, text: str, most: int, *, is_end: bool = False, add_special_tokens: bool) -> list[int]:
        """Tokenise the first part of `text` that gives at most `most` tokens, special ones included.

        `is_end`: the last part instead. Only with a Rust tokenizer are special tokens set around the part.
        """
        if self._backend is None:
            whole = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
            return whole[-most:] if is_end else whole[:most]
        around = self._backend.num_special_tokens_to_add(is_pair=False) if add_special_tokens else 0
        part = _slowly(self._backend, text, add_special_tokens=False)
        part.truncate(max(most - around, 0), direction="left" if is_end else "right")
        ids: list[int] = self._backend.post_process(part, None, add_special_tokens).ids
        return ids[:most]

    def _encoding(self, text: str, *, add_special_tokens: bool) -> Any:
        if self._fast is not None:
            with suppress(ValueError, RuntimeError):  # a bound of its regular expressions
                return self._fast.encode(text, add_special_tokens)
        return _slowly(self._backend, text, add_special_tokens=add_special_tokens)


def _slowly(backend: Any, text: str, *, add_special_tokens: bool) -> Any:
    """Tokenise a text; a long one by the call for several, which lets others have the interpreter meanwhile."""
    if len(text) <= SHORT_CHARS:
        return backend.encode(text, add_special_tokens=add_special_tokens)
    return backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]


def _backend(tokenizer: Tokenizer) -> Any:
    """Return the Rust tokenizer, or None, without the padding and truncation that its file may ask for in training."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and (backend.padding or backend.truncation):
        backend = copy.copy(backend)
        backend.no_padding()
        backend.no_truncation()
    return backend


def _fast(backend: Any) -> Any:
    """Return fastokens' encoder of the same tokenizer; None where there is none, or where it gives other ids."""
    try:
        from fastokens import Tokenizer as Fast
        from tokenizers import Tokenizer as Slow
    except ImportError:  # not on every platform
        return None
    if type(backend) is not Slow:
        return None
    try:
        fast = Fast.from_json_str(backend.to_str())
        differing = next(_differing(backend, fast), None)
    except Exception as error:  # noqa: BLE001 foreign code, of which there is another
        log.info("texts are tokenised by the tokenizer's own encoder: fastokens does not take it (%s)", error)
        return None
    if differing is not None:
        log.warning("texts are tokenised by the tokenizer's own encoder: fastokens reads %s otherwise", echo(differing))
        return None
    return fast


def _differing(backend: Any, fast: Any) -> Iterator[str]:
    """Yield the probes for which the two give other ids."""
    added = [one.content for one in backend.get_added_tokens_decoder().values()]
    for place, text in enumerate(probes(added)):
        for has_special in (False, True) if place % WHOLE_EACH == 0 else (False,):
            if fast.encode(text, has_special).ids != backend.encode(text, add_special_tokens=has_special).ids:
                yield text


def probes(added: list[str], count: int = PROBES, seed: int = 0) -> Iterator[str]:
    """Make up texts in which much of what a tokenizer can come across stands side by side; always the same ones.

    `added`: the contents of its added tokens.
    """
    chance = random.Random(seed)  # noqa: S311 nothing depends on its being hard to foretell
    added = chance.sample(added, min(ADDED, len(added)))
    yield ""
    yield from WORDS
    for _ in range(count):
        yield "".join(_piece(chance, added) for _ in range(chance.randint(1, PIECES)))


def _piece(chance: random.Random, added: list[str]) -> str:
    match chance.choices(("added", "drawn", "run", "word"), (3 if added else 0, 3, 2, 12))[0]:
        case "added":
            around = ("", "", " ", "\n")
            return chance.choice(around) + chance.choice(added) + chance.choice(around)
        case "drawn":
            first, last = chance.choice(RANGES)
            return "".join(chr(chance.randint(first, last)) for _ in range(chance.randint(1, 6)))
        case "run":
            return chance.choice((" ", "\n", "\t", "a", "1", "-", "=")) * chance.randint(1, 40)
        case _:
            return chance.choice(WORDS)
