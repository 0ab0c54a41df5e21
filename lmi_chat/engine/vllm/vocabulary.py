"""Look up the bytes of a token id, in a table built once per model from the tokenizer's vocabulary."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from lmi_chat.chat_template import Tokenizer
from lmi_chat.engine.vllm import mistral
from lmi_chat.job import TokenLogprob

NO_PROBABILITY = -9999.0


class Vocabulary:
    """Bytes and special marks of every token.

    Byte-level BPE spells each byte as one printable character (GPT-2's table); SentencePiece spells a space as U+2581
    and single bytes as `<0xNN>`; anything else is asked of the tokenizer, token by token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Find out how `tokenizer` spells its tokens."""
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._spelling = _spelling(tokenizer)
        self._bytes = mistral.token_bytes(tokenizer)
        self._known: dict[int, bytes] = {}

    def choice(self, token_id: int, logprob: float) -> TokenLogprob:
        """Return a token with its log-probability; −inf and NaN become −9999.0, which JSON can hold."""
        sound = max(NO_PROBABILITY, logprob)
        return TokenLogprob(token_id, sound, self.spell(token_id), token_id in self._special)

    def is_special(self, token_id: int) -> bool:
        """Whether a token is left out of texts without special tokens."""
        return token_id in self._special

    def spell(self, token_id: int) -> bytes:
        """Return the token's own bytes; of a token that is part of a character, just that part."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._read(token_id)
        return known

    def _read(self, token_id: int) -> bytes:
        if self._bytes is not None:
            return self._bytes(token_id)
        spelled = self._tokenizer.convert_ids_to_tokens([token_id])[0]
        if spelled is None:
            return b""
        if token_id in self._special or self._spelling is None:
            return self._tokenizer.decode([token_id], skip_special_tokens=False).encode()
        return self._spelling(spelled)


def _spelling(tokenizer: Tokenizer) -> Callable[[str], bytes] | None:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return None
    state = json.loads(backend.decoder.__getstate__())
    kinds = {part["type"] for part in [state, *state.get("decoders", [])]}
    if "ByteLevel" in kinds:
        return byte_level
    return mistral.sentencepiece if kinds & {"ByteFallback", "Metaspace"} else None


def byte_level(spelled: str) -> bytes:
    """Return the bytes of a token as byte-level BPE spells it."""
    table = _byte_of_character()
    if all(character in table for character in spelled):
        return bytes(table[character] for character in spelled)
    return spelled.encode()


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte table: printable bytes are themselves, the others follow from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(0x100) if byte not in printable]
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}
