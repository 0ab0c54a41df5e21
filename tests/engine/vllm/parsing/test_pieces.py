"""The text of engine steps in its tokens, and markers spelled in ordinary tokens."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from lmi_chat.engine.vllm.parsing.pieces import Cutter, MarkerReader, Markers, Piece
from lmi_chat.job import Delta, Finish, SamplingParams

TOKENS = [b"a", b" \xf0\x9f", b"\x8c\x9f", b"", b"bc", b"<s>", "\u00e9".encode(), b"!"]
TEXTS = ["a", "", " \U0001f31f", "", "bc", "<s>", "\u00e9", "!"]
VOCABULARY: Any = SimpleNamespace(spell=TOKENS.__getitem__, is_special=lambda token_id: token_id == 5)


@pytest.mark.parametrize("lag", [0, 3])
@pytest.mark.parametrize("seed", range(30))
def test_pieces_are_the_same_for_any_steps(seed: int, lag: int) -> None:
    dice = random.Random(seed)
    cutter = Cutter(VOCABULARY, SamplingParams(stop=("abcd",) if lag else (), skip_special_tokens=False))
    rest, late, pieces = list(range(len(TOKENS))), "", list[Piece]()
    while rest:
        size = dice.randint(1, 4)
        step, rest = rest[:size], rest[size:]
        late += "".join(TEXTS[token] for token in step)
        cut = max(0, len(late) - lag)
        pieces += cutter.take(Delta(0, late[:cut], step))
        late = late[cut:]
    pieces += cutter.take(Delta(0, late, [], finish=Finish("stop")))
    assert [(piece.ids, piece.text) for piece in pieces if piece.ids] == [([i], text) for i, text in enumerate(TEXTS)]


def test_a_stop_string_cuts_the_last_pieces() -> None:
    cutter = Cutter(VOCABULARY, SamplingParams(stop=("bc",)))
    pieces = cutter.take(Delta(0, "", [0, 4]))
    assert pieces == []
    assert [piece.text for piece in cutter.take(Delta(0, "a", [7], finish=Finish("stop", "bc")))] == ["a", "", ""]


def test_special_tokens_that_are_left_out_have_no_text() -> None:
    cutter = Cutter(VOCABULARY, SamplingParams())
    assert [piece.text for piece in cutter.take(Delta(0, "abc", [0, 5, 4]))] == ["a", "", "bc"]


def read(texts: list[str], markers: dict[str, int]) -> list[tuple[str, list[int]]]:
    reader = MarkerReader(Markers(markers))
    pieces = [one for place, text in enumerate(texts) for one in reader.read(Piece(text, [100 + place]))]
    return [(piece.text, piece.ids) for piece in [*pieces, *reader.flush()]]


def test_a_marker_in_ordinary_tokens_is_the_marker() -> None:
    marks = {"<think>": 1, "</think>": 2}
    assert read(["a <", "th", "ink", ">\n", "b"], marks) == [
        ("a ", [100]),
        ("<think>", [1]),
        ("\n", []),
        ("b", [104]),
    ]
    assert read(["x</think><think>y"], marks) == [("x", [100]), ("</think>", [2]), ("<think>", [1]), ("y", [])]


def test_what_only_begins_like_a_marker_is_text() -> None:
    marks = {"<think>": 1}
    assert read(["<", "<th", "e", "<thin"], marks) == [("<", [100]), ("<th", [101]), ("e", [102]), ("<thin", [103])]


def test_a_marker_that_is_a_token_passes() -> None:
    reader = MarkerReader(Markers({"<think>": 1, "<|reserved_1|>": 2}))
    assert reader.read(Piece("<th", [7])) == []
    assert [piece.text for piece in reader.read(Piece("<think>", [1]))] == ["<th", "<think>"]


@pytest.mark.parametrize("seed", range(30))
def test_no_character_is_lost(seed: int) -> None:
    dice = random.Random(seed)
    texts = ["".join(dice.choice("<>/tk a") for _ in range(dice.randint(0, 4))) for _ in range(40)]
    assert "".join(text for text, _ in read(texts, {"<tk>": 1, "</tk>": 2, "<t": 3})) == "".join(texts)
