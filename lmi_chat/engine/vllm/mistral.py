"""Read the bytes of tokens from the tokenizers of Mistral's own library: Tekken and SentencePiece."""

import re
from collections.abc import Callable
from typing import Any

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def is_tekken(tokenizer: Any) -> bool:
    """Whether this is Mistral's Tekken, as vLLM wraps it: each of its plain tokens stands for bytes."""
    return bool(getattr(tokenizer, "is_tekken", False))


def token_bytes(tokenizer: Any) -> Callable[[int], bytes] | None:
    """Return a function from token ids to their bytes; None for a tokenizer of another library."""
    if not is_tekken(tokenizer) and not getattr(tokenizer, "is_spm", False):
        return None
    inner, special, count = tokenizer.tokenizer, frozenset(tokenizer.all_special_ids), len(tokenizer)

    def read(token_id: int) -> bytes:
        if token_id >= count:  # a model's vocabulary may be padded
            return b""
        if token_id in special:
            return str(tokenizer.decode([token_id], skip_special_tokens=False)).encode()
        if is_tekken(tokenizer):
            return bytes(inner.id_to_byte_piece(token_id))
        return sentencepiece(inner.id_to_piece(token_id))

    return read


def sentencepiece(spelled: str) -> bytes:
    """Return the bytes of a token as SentencePiece spells it: U+2581 for a space, `<0xNN>` for a byte."""
    single = BYTE_TOKEN.fullmatch(spelled)
    return bytes([int(single[1], 16)]) if single else spelled.replace("\u2581", " ").encode()
