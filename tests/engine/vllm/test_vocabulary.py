"""Token id → its own bytes, for each way in which tokenizers spell their tokens."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from lmi_chat.engine.vllm.vocabulary import Vocabulary
from tests.support.fakes import END_ID, ByteTokenizer

BYTE_LEVEL = {"type": "ByteLevel"}
LLAMA = {"type": "Sequence", "decoders": [{"type": "Replace"}, {"type": "ByteFallback"}, {"type": "Fuse"}]}
METASPACE = {"type": "Metaspace"}


class Words(ByteTokenizer):
    """A tokenizer whose tokens are spelled as given, the last one is special. `decoder` None: no Rust backend."""

    def __init__(self, words: Sequence[str | None], decoder: dict[str, Any] | None) -> None:
        super().__init__()
        self._words = words
        self.all_special_ids = [len(words) - 1]
        if decoder is None:
            del self.backend_tokenizer
        else:
            state = json.dumps(decoder).encode()
            self.backend_tokenizer.decoder = type("Decoder", (), {"__getstate__": lambda _: state})()

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        return [self._words[token] for token in ids]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        assert not skip_special_tokens
        return "".join(f"[{self._words[token]}]" for token in token_ids)


def spelled(words: Sequence[str | None], decoder: dict[str, Any] | None) -> list[bytes]:
    vocabulary = Vocabulary(Words([*words, "</s>"], decoder))
    return [vocabulary.spell(token) for token in range(len(words))]


def test_byte_level_reaches_every_byte_once() -> None:
    words = [chr(number) for number in range(0x144)]
    reached = [data[0] for data in spelled(words, BYTE_LEVEL) if len(data) == 1]
    unprintable = {*range(0x21), *range(0x7F, 0xA1), 0xAD}
    as_themselves = [number for number in reached if number not in unprintable]
    assert {*reached} == {*range(256)}
    assert len(as_themselves) == len({*as_themselves})


@pytest.mark.parametrize(
    ("word", "data"),
    [
        ("Hello", b"Hello"),
        ("ĠParis", b" Paris"),
        ("Ċ", b"\n"),
        ("Ā", b"\0"),
        ("ł", b"\xa0"),
        ("Ń", b"\xad"),
        ("é", b"\xe9"),
        ("Ã©", "é".encode()),
        ("æĹ", b"\xe6\x97"),
        ("日本", "日本".encode()),
        ("<tool call>", b"<tool call>"),
    ],
)
def test_byte_level_spelling(word: str, data: bytes) -> None:
    assert spelled([word], BYTE_LEVEL) == [data]
    assert spelled([word], {"type": "Sequence", "decoders": [BYTE_LEVEL]}) == [data]


@pytest.mark.parametrize("decoder", [LLAMA, METASPACE])
@pytest.mark.parametrize(
    ("word", "data"),
    [
        ("▁Paris", b" Paris"),
        ("▁▁x", b"  x"),
        ("<0xE2>", b"\xe2"),
        ("<0x0a>", b"\n"),
        ("<0xE2", b"<0xE2"),
        ("é", "é".encode()),
        ("Ġ", "Ġ".encode()),
    ],
)
def test_sentencepiece_spelling(decoder: dict[str, Any], word: str, data: bytes) -> None:
    assert spelled([word], decoder) == [data]


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece"}])
def test_other_spellings_are_asked_of_the_tokenizer(decoder: dict[str, Any] | None) -> None:
    assert spelled(["##ing", "Ġx"], decoder) == [b"[##ing]", "[Ġx]".encode()]


@pytest.mark.parametrize("decoder", [BYTE_LEVEL, LLAMA, None])
def test_special_tokens_are_decoded_and_marked(decoder: dict[str, Any] | None) -> None:
    vocabulary = Vocabulary(Words(["a", "</s>"], decoder))
    end, plain = vocabulary.choice(1, -1.0), vocabulary.choice(0, -2.0)
    assert (end.bytes, end.is_special) == (b"[</s>]", True)
    assert (plain.id, plain.logprob, plain.is_special) == (0, -2.0, False)


def test_an_id_without_a_word_has_no_bytes() -> None:
    assert spelled([None, "a"], BYTE_LEVEL) == [b"", b"a"]


@pytest.mark.parametrize(
    ("logprob", "shown"),
    [(-math.inf, -9999.0), (math.nan, -9999.0), (-1e30, -9999.0), (-9999.0, -9999.0), (-0.5, -0.5), (0.0, 0.0)],
)
def test_no_probability_is_a_number(logprob: float, shown: float) -> None:
    assert Vocabulary(ByteTokenizer()).choice(65, logprob).logprob == shown


def test_the_stand_in_is_spelled_byte_by_byte() -> None:
    vocabulary = Vocabulary(ByteTokenizer())
    assert [vocabulary.spell(token) for token in range(256)] == [bytes([byte]) for byte in range(256)]
    assert vocabulary.choice(END_ID, -1.0).bytes == b"<|im_end|>"
