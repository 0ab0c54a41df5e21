"""Decode token ids as they come, from a table wherever that is exact, else by the tokenizer's own stream.

Leans on what tokenizers' `DecodeStream` does: it gives text as soon as what it has decodes to more than before and
does not end in U+FFFD. So a token that stands for whole characters gives the same text after any other such token, and
is spelled once; one that is part of a character, or that may be, is left to a stream until whole characters are back.
Where tokens stand for bytes, as in byte-level BPE, the bytes are held instead.
"""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from lmi_chat.chat_template import Tokenizer
from lmi_chat.codec.json_text import dump, unescape
from lmi_chat.engine.vllm import mistral
from lmi_chat.engine.vllm.vocabulary import byte_level

INCOMPLETE = "\ufffd"
TAIL_TOKENS = 8  # more than the bytes of a character
INVALID_PREFIX = "Invalid prefix"
LLAMA = {"Replace", "ByteFallback", "Fuse", "Strip"}
log = logging.getLogger(__name__)


class Table(dict[int, bytes | None]):
    """Token ids with their text as JSON writes it, without quotes; b"" for one that is not shown, None for a part.

    Filled as tokens come: the whole vocabulary would hold up the start.
    """

    def __init__(self, backend: Any, anchor: int, parts: frozenset[int]) -> None:
        """`anchor` is a token of plain text, `parts` those that are never taken from the table."""
        super().__init__()
        self._backend, self._anchor, self._parts = backend, anchor, parts
        self._before: str = backend.decode([anchor], skip_special_tokens=True)

    def __missing__(self, token_id: int) -> bytes | None:
        """Spell a token by what it adds to the anchor's text."""
        known = self[token_id] = self._spell(token_id)
        return known

    def _spell(self, token_id: int) -> bytes | None:
        if token_id in self._parts:
            return None
        after: str = self._backend.decode([self._anchor, token_id], skip_special_tokens=True)
        if after.endswith(INCOMPLETE) or not after.startswith(self._before):
            return None
        return dump(after[len(self._before) :])[1:-1]


class Detokenizer:
    """Decodes one tokenizer's tokens to text, special ones left out."""

    def __init__(self, backend: Any, *, anchor: int, parts: frozenset[int], has_bytes: bool) -> None:
        """`has_bytes`: each token stands for bytes, and a text is what they are together."""
        self._backend, self._anchor, self.has_bytes = backend, anchor, has_bytes
        self.table = Table(backend, anchor, parts)

    def fits(self, prompt_ids: Sequence[int]) -> bool:  # noqa: ARG002 another kind looks at it
        """Whether the text after this prompt can be decoded here."""
        return True

    def begin(self, prompt_ids: Sequence[int]) -> "Text":
        """Begin the text of a sequence that follows a prompt."""
        return Text(self, None if self._is_clean(prompt_ids) else self.stream(prompt_ids))

    def _is_clean(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the prompt's text ends with a whole character."""
        for token_id in reversed(prompt_ids):
            spelled = self.table[token_id]
            if spelled is None or spelled:
                return spelled is not None
        return self.has_bytes

    def stream(self, ids: Sequence[int] | None = None) -> Any:
        """Begin the tokenizer's own stream after `ids` (None: after whole characters)."""
        from tokenizers.decoders import DecodeStream

        return DecodeStream(ids=[self._anchor] if ids is None else list(ids), skip_special_tokens=True)

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of a byte-level token."""
        return byte_level(self._backend.id_to_token(token_id))

    def step(self, stream: Any, token_id: int) -> tuple[Any, str]:
        """Return the next text of `stream`, and the stream to go on with: bytes that are no text may break one."""
        try:
            return stream, stream.step(self._backend, token_id) or ""
        except Exception as error:
            if not str(error).startswith(INVALID_PREFIX):
                raise
        from tokenizers.decoders import DecodeStream

        fresh = DecodeStream(skip_special_tokens=True)
        return fresh, fresh.step(self._backend, token_id) or ""


class TekkenTable(dict[int, bytes | None]):
    """As Table; what is shown of a token is what vLLM's `convert_ids_to_tokens` leaves of it."""

    def __init__(self, tokenizer: Any) -> None:
        """Spell the tokens of vLLM's MistralTokenizer."""
        super().__init__()
        self._tokenizer, self._count = tokenizer, len(tokenizer)

    def __missing__(self, token_id: int) -> bytes | None:
        """Spell a token by itself: its bytes do not depend on those before."""
        known = self[token_id] = self._spell(token_id) if token_id < self._count else b""
        return known

    def _spell(self, token_id: int) -> bytes | None:
        shown = self._tokenizer.convert_ids_to_tokens([token_id], skip_special_tokens=True)
        text = self._tokenizer.convert_tokens_to_string(shown)
        return None if text.endswith(INCOMPLETE) else dump(text)[1:-1]


class TekkenDetokenizer(Detokenizer):
    """Decodes the tokens of Mistral's Tekken, which are bytes; a prompt that ends inside a character is not for it."""

    def __init__(self, tokenizer: Any, token_bytes: Callable[[int], bytes]) -> None:
        """`token_bytes`: a token's bytes."""
        self.has_bytes = True
        self.table: Any = TekkenTable(tokenizer)
        self._token_bytes = token_bytes

    def bytes_of(self, token_id: int) -> bytes:
        """See Detokenizer.bytes_of."""
        return self._token_bytes(token_id)

    def fits(self, prompt_ids: Sequence[int]) -> bool:
        """See Detokenizer.fits."""
        shown = [token_id for token_id in prompt_ids[-TAIL_TOKENS:] if self.table[token_id] != b""]
        return not b"".join(map(self.bytes_of, shown)).decode("utf-8", "replace").endswith(INCOMPLETE)

    def begin(self, prompt_ids: Sequence[int]) -> "Text":  # noqa: ARG002 it fits
        """See Detokenizer.begin."""
        return Text(self, None)


class Text:
    """One sequence's text as it grows. While `is_clean`, its characters are whole and the table is exact."""

    __slots__ = ("_held", "_spelling", "_stream", "is_clean")

    def __init__(self, spelling: Detokenizer, stream: Any) -> None:
        """Begin after whole characters, or with the state of `stream`."""
        self._spelling, self._stream = spelling, stream
        self._held = b""
        self.is_clean = stream is None

    def take(self, ids: Sequence[int]) -> str:
        """Return the text that `ids` add; "" as long as a character is not whole."""
        return unescape(self.spell(ids))

    def spell(self, ids: Sequence[int]) -> bytes:
        """Return the same as JSON writes it, without quotes."""
        return b"".join([self._next(token_id) for token_id in ids])

    def _next(self, token_id: int) -> bytes:
        spelling = self._spelling
        known = spelling.table[token_id]
        if self.is_clean and known is not None:
            return known
        if spelling.has_bytes and self._stream is None:
            return self._add(token_id if known != b"" else None)
        stream = self._stream or spelling.stream()
        self._stream, text = spelling.step(stream, token_id)
        self.is_clean = bool(text and known)
        if self.is_clean:
            self._stream = None
        return dump(text)[1:-1]

    def _add(self, token_id: int | None) -> bytes:
        """Collect tokens that are bytes until they are whole characters; None: one that is not shown."""
        self._held += b"" if token_id is None else self._spelling.bytes_of(token_id)
        text = self._held.decode("utf-8", "replace")
        self.is_clean = not text.endswith(INCOMPLETE)
        if not self.is_clean:
            return b""
        self._held = b""
        return dump(text)[1:-1]


def of(tokenizer: Tokenizer) -> Detokenizer | None:
    """Return the Detokenizer of a tokenizer whose tokens have a text of their own; None for another."""
    token_bytes = mistral.token_bytes(tokenizer)
    if token_bytes is not None and mistral.is_tekken(tokenizer):
        return TekkenDetokenizer(tokenizer, token_bytes)
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return None
    state = json.loads(backend.decoder.__getstate__())
    steps = state.get("decoders", [state])
    kinds = {step["type"] for step in steps}
    if kinds not in ({"ByteLevel"}, {"Metaspace"}) and not _is_llama(kinds, steps):
        return None
    anchors = backend.encode("a", add_special_tokens=False).ids
    if not anchors or not backend.decode(anchors[-1:], skip_special_tokens=True).endswith("a"):
        return None
    single = {f"<0x{byte:02X}>" for byte in range(0x100)} if "ByteFallback" in kinds else set[str]()
    parts = {token_id for token_id in map(backend.token_to_id, single) if token_id is not None}
    # what is called special and yet shown is left to the tokenizer
    parts |= {one for one in tokenizer.all_special_ids if backend.decode([one], skip_special_tokens=True)}
    return Detokenizer(backend, anchor=anchors[-1], parts=frozenset(parts), has_bytes=kinds == {"ByteLevel"})


def _is_llama(kinds: set[str], steps: Sequence[dict[str, Any]]) -> bool:
    """Whether this is Llama's decoder: U+2581 is a space, `<0xNN>` a byte, and only the very first space is dropped."""
    if kinds - LLAMA or "Replace" not in kinds:
        return False
    for step in steps:
        if step["type"] == "Replace" and (step["pattern"], step["content"]) != ({"String": "\u2581"}, " "):
            return False
        if step["type"] == "Strip" and (step["content"], step["start"] > 1, step["stop"]) != (" ", False, 0):
            return False
    return True
