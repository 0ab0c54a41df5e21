"""Token ids → text by a table: the same as the tokenizer's own stream, token by token, for each kind of tokenizer."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream

from lmi_chat.engine.vllm.fast_path import detokenizer
from lmi_chat.engine.vllm.fast_path.detokenizer import Detokenizer

SPECIAL = ["<s>", "</s>"]
LINE_ENDS = {"\x85": rb"\u0085", "\u2028": rb"\u2028", "\u2029": rb"\u2029"}
WORDS = ["a", "b", "▁a", "▁", "▁Paris", "é", "ภ", "😀", '"', "\\", "\x07", "▁▁", "<", ">", "\ufffd", *LINE_ENDS]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


class Named:
    """As a transformers tokenizer."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend
        self.all_special_ids = [backend.token_to_id(name) for name in SPECIAL]


def _tokenizer(words: Sequence[str], decoder: Any, before: Any = None) -> Any:
    vocabulary = {word: place for place, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=None))
    backend.decoder = decoder
    if before is not None:
        backend.pre_tokenizer = before
    backend.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return Named(backend)


LLAMA = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
KINDS = {
    "byte level": _tokenizer(
        [*ALPHABET, "Ġa", "ĠParis", "ðŁĺ", "à¸", "ï¿½"], decoders.ByteLevel(), pre_tokenizers.ByteLevel()
    ),
    "llama": _tokenizer([*WORDS, *BYTES], LLAMA),
    "metaspace": _tokenizer(WORDS, decoders.Metaspace()),
}


def _stream(backend: Tokenizer, prompt: list[int], ids: list[int]) -> list[str]:
    """As vLLM does it, bytes that break the stream included."""
    stream, texts = DecodeStream(ids=prompt, skip_special_tokens=True), []
    for token_id in ids:
        try:
            text = stream.step(backend, token_id)
        except Exception:  # noqa: BLE001 the library's own type is not public; the prefix is broken
            stream = DecodeStream(skip_special_tokens=True)
            text = stream.step(backend, token_id)
        texts.append(text or "")
    return texts


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_as_from_the_tokenizers_stream(kind: str) -> None:
    named = KINDS[kind]
    backend, spelled = named.backend_tokenizer, detokenizer.of(named)
    assert spelled
    most = backend.get_vocab_size()
    by_table = 0
    for seed in range(400):
        chance = random.Random(seed)
        weights = [1 if f"{backend.id_to_token(place)}" in BYTES else 60 for place in range(most)]
        ids = chance.choices(range(most), weights, k=chance.randint(1, 24))
        prompt = chance.choices(range(most), weights, k=chance.randint(1, 5))
        text = spelled.begin(prompt)
        texts = []
        for token_id in ids:
            by_table += text.is_clean and spelled.table[token_id] is not None
            texts.append(text.take([token_id]))
        assert texts == _stream(backend, prompt, ids), (seed, prompt, ids)
        assert spelled.begin(prompt).take(ids) == "".join(texts), "at once as in steps"
    assert by_table > 1000


@pytest.mark.parametrize("kind", ["llama", "metaspace"])
def test_what_line_readers_split_at_is_escaped_in_the_table(kind: str) -> None:
    spelled = detokenizer.of(KINDS[kind])
    assert spelled
    assert [spelled.table[WORDS.index(end)] for end in LINE_ENDS] == [*LINE_ENDS.values()]


@pytest.mark.parametrize("end", LINE_ENDS)
def test_and_where_it_comes_in_several_tokens(end: str) -> None:
    spelled = detokenizer.of(KINDS["byte level"])
    assert spelled
    text = spelled.begin(spelled._backend.encode("a").ids)
    ids = [next(one for one in range(256) if spelled.bytes_of(one) == bytes([byte])) for byte in end.encode()]
    assert b"".join(text.spell([one]) for one in ids) == LINE_ENDS[end]


def test_most_of_a_vocabulary_is_spelled_by_the_table() -> None:
    spelled = detokenizer.of(KINDS["llama"])
    assert spelled
    found = {spelled.table[place] for place in range(len(WORDS))}
    assert {b"a", b" Paris", "😀".encode(), b'\\"', b"\\\\", b"\\u0007"} < found
    assert spelled.table[WORDS.index("\ufffd")] is None, "it may be a part of something"
    assert spelled.table[len(WORDS) + 0xE2] is None


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.WordPiece(),
        decoders.BPEDecoder(),
        decoders.Sequence([decoders.Replace("_", " "), decoders.Fuse()]),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 0, 1)]),
    ],
)
def test_a_decoder_that_looks_around_gets_no_table(decoder: Any) -> None:
    assert detokenizer.of(_tokenizer(WORDS, decoder)) is None


def test_a_tokenizer_without_a_rust_backend_gets_no_table() -> None:
    named: Any = Named(KINDS["llama"].backend_tokenizer)
    del named.backend_tokenizer
    assert detokenizer.of(named) is None


def test_a_special_token_that_is_shown_is_left_to_the_stream() -> None:
    named = KINDS["llama"]
    shown: Any = Named(named.backend_tokenizer)
    shown.all_special_ids = [WORDS.index("b")]
    spelled: Detokenizer | None = detokenizer.of(shown)
    assert spelled
    assert spelled.table[WORDS.index("b")] is None
    assert spelled.table[named.all_special_ids[0]] == b""
