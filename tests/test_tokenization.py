"""The fast encoder gives the tokenizer's own ids, or is not taken."""

import logging
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lmi_chat import tokenization
from lmi_chat.tokenization import SHORT_CHARS, Encoder, probes

pytest.importorskip("fastokens")

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [*probes([], 300, seed=7)] * 3


def byte_level(pattern: str | None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated"), split] if pattern else [split]
    made.pre_tokenizer = pre_tokenizers.Sequence(parts)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def sentencepiece() -> Tokenizer:
    made = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    single = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=["<unk>", *SPECIAL, *single], show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=6000,
        special_tokens=["<unk>", *SPECIAL],
        unk_token="<unk>",
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(special_tokens=["[UNK]", *SPECIAL], show_progress=False))
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "GPT-2": lambda: byte_level(None),
    "Llama 3": lambda: byte_level(LLAMA3),
    "Llama 2": sentencepiece,
    "unigram": unigram,
    "WordPiece": wordpiece,
}
FAST = {"GPT-2", "Llama 3", "Llama 2"}
"""Those that chat models have, which fastokens must take: elsewhere it may, and all must be right."""


@cache
def tokenizer(kind: str) -> Any:
    made = KINDS[kind]()
    made.add_special_tokens([AddedToken("<|eot|>", rstrip=True), AddedToken("<pad>", lstrip=True)])
    made.add_tokens([AddedToken("lmi_chat", single_word=True), AddedToken("sagemaker", normalized=True)])
    first = made.token_to_id("<s>")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", first)])
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_the_tokenizers_own(kind: str) -> None:
    whole = tokenizer(kind)
    encoder, backend = Encoder(whole), whole.backend_tokenizer
    assert encoder.is_fast or kind not in FAST
    added = [one.content for one in backend.get_added_tokens_decoder().values()]
    texts = [*probes(added, 2000, seed=1), " ".join(probes(added, 200, seed=2))]
    assert len(texts[-1]) > SHORT_CHARS
    for text in texts:
        for has_special in (False, True):
            ids = encoder.encode(text, add_special_tokens=has_special)
            assert ids == backend.encode(text, add_special_tokens=has_special).ids, repr(text)


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_tokenizer_that_it_reads_otherwise_keeps_its_own(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, *, is_taken: bool
) -> None:
    """As where a version of either library has a fault: what is tried out at the start decides."""
    import fastokens

    whole, other = (
        tokenizer("GPT-2"),
        fastokens.Tokenizer.from_json_str(tokenizer("Llama 3").backend_tokenizer.to_str()),
    )

    def read(_: str) -> Any:
        if is_taken:
            return other
        raise ValueError("an unknown kind")

    monkeypatch.setattr(fastokens, "Tokenizer", SimpleNamespace(from_json_str=read))
    with caplog.at_level(logging.INFO):
        encoder = Encoder(whole)
    assert not encoder.is_fast
    assert "own encoder" in caplog.text
    assert encoder.encode("1234 Hello", add_special_tokens=True) == whole.encode("1234 Hello")


def test_a_text_that_it_gives_up_is_tokenised_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class GivesUp:
        def encode(self, *_: object) -> Any:
            raise RuntimeError("match limit exceeded")

    monkeypatch.setattr(tokenization, "_fast", lambda _: GivesUp())
    whole = tokenizer("Llama 3")
    assert Encoder(whole).encode("a b", add_special_tokens=True) == whole.encode("a b")


def test_probes_are_always_the_same_and_name_what_was_added() -> None:
    first = [*probes(["<x>"])]
    assert first == [*probes(["<x>"])]
    assert any("<x>" in text for text in first)
    assert not any(0xD800 <= ord(sign) < 0xE000 for text in first for sign in text)
