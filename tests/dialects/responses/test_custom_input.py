"""The input of a custom tool's call: the same however its arguments are split, and never half a character."""

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat.dialects.responses.custom_input import CustomInput, as_arguments
from tests.support.fakes import brief

HEAD = '{"input":"'


def decoded(*pieces: str, is_cut: bool = False) -> list[str]:
    """What each piece of the arguments adds to the input, and the end."""
    custom = CustomInput()
    return [*map(custom.take, pieces), custom.end(is_cut=is_cut)]


TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)


@brief
@given(TEXTS, st.booleans(), st.sampled_from(["", " ", "\n\t "]))
def test_what_json_writes_is_read_back(text: str, is_ascii: bool, space: str) -> None:  # noqa: FBT001
    string = json.dumps(text, ensure_ascii=is_ascii)
    arguments = f'{space}{{{space}"input"{space}:{space}{string}{space}}}{space}'
    assert "".join(decoded(arguments)) == text
    assert "".join(decoded(*arguments)) == text
    assert "".join(decoded(as_arguments(text))) == text


SPELLED = st.one_of(
    TEXTS,
    st.sampled_from(
        ["\\n", '\\"', "\\\\", "\\u00e9", "\\ud83d\\ude00", "\\ud83d", "\\ude00", "\\u12", "\\q", "\n", '"']
    ),
)
BEGINNINGS = st.sampled_from([HEAD, ' {"input" : "', '{"input":', '{"other":"', "", "{", "plain "])


@brief
@given(BEGINNINGS, st.lists(SPELLED, max_size=8), st.data(), st.booleans())
def test_any_split_gives_the_same_and_a_prefix_at_all_times(
    beginning: str,
    parts: list[str],
    data: st.DataObject,
    is_cut: bool,  # noqa: FBT001
) -> None:
    arguments = beginning + "".join(parts)
    whole = "".join(decoded(arguments, is_cut=is_cut))
    places = sorted(data.draw(st.lists(st.integers(0, len(arguments)), max_size=6)))
    edges = [0, *places, len(arguments)]
    pieces = [arguments[start:end] for start, end in pairwise(edges)]
    assert "".join(decoded(*pieces, is_cut=is_cut)) == whole
    for end in range(len(arguments)):
        assert whole.startswith("".join(decoded(arguments[:end], is_cut=True))), "a cut answer's is a prefix"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input":"a","more":1}', "a"),
        ('{"input":"a"', "a"),
        ('{"input":"a\\d\\u12x\\ud83dz\\ude00"}', "a\\d\\u12x\\ud83dz\\ude00"),
        ('{"input":"a\\ud83d\\n\\ud83d\\ud83d\\ude00"}', "a\\ud83d\n\\ud83d😀"),
        ('{"input":"a\nb\tc"}', "a\nb\tc"),
        ('{"input":5}', '{"input":5}'),
        ('{"other":"a"}', '{"other":"a"}'),
        ('{ "in put":"a"}', '{ "in put":"a"}'),
        ("{}", "{}"),
        ('{"inp', '{"inp'),
        ("*** Begin Patch", "*** Begin Patch"),
        ("", ""),
    ],
)
def test_what_is_no_such_object_stays_as_it_is(arguments: str, text: str) -> None:
    assert "".join(decoded(arguments)) == text
    assert "".join(decoded(*arguments)) == text


@pytest.mark.parametrize("half", ["\\", "\\u", "\\u00e", "\\ud83d", "\\ud83d\\", "\\ud83d\\u", "\\ud83d\\ude0"])
def test_an_escape_that_is_cut_is_not_told(half: str) -> None:
    assert decoded(HEAD + "a" + half, is_cut=True) == ["a", ""]
    assert decoded(HEAD + "a\\\\" + half, is_cut=True) == ["a\\", ""]


def test_a_head_that_is_cut_is_not_told() -> None:
    assert decoded(' {"inp', is_cut=True) == ["", ""]
    assert decoded(' {"inp') == ["", ' {"inp']


def test_each_piece_adds_what_is_certain() -> None:
    assert decoded('{"inp', 'ut":"a\\', "n\\ud83d", "\\ude", '00b"', "}") == ["", "a", "\n", "", "😀b", "", ""]


def test_its_cost_grows_with_its_length() -> None:
    """A million characters one by one: what reads all again whenever more comes would take hours."""
    begun = time.process_time()
    custom = CustomInput()
    told = [custom.take(character) for character in " " * 100_000 + HEAD + "\\n\\ud83d\\ude00é" * 20_000]
    assert "".join(told) == "\n😀é" * 20_000
    assert time.process_time() - begun < 60
