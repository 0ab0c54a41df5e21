"""Bytes in, bytes out: what the contract asks of encodings, syntax, numbers, nesting and size (faults.md, 3a)."""

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmi_chat.codec.json_text import dump, escape_line_ends, read, text
from lmi_chat.errors import BadEncoding, BadField, BadJson, Error
from tests.support.fakes import brief

DEPTH = 64
PLACES = {
    "body": "%s",
    "unknown key": '{"messages":[],"zzz":%s}',
    "tools": '{"messages":[],"tools":[{"function":{"parameters":%s}}]}',
    "content": '{"messages":[{"role":"user","content":%s}]}',
}
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too
ANY_LEAF = st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.integers() | st.floats() | ANY_TEXT
ANY_KEY = ANY_TEXT | st.integers() | st.none() | st.booleans() | st.floats()
ANY_VALUE = st.recursive(
    ANY_LEAF | st.binary(max_size=20) | st.just(object()),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(ANY_KEY, inner, max_size=5) | st.tuples(inner, inner),
    max_leaves=8,
)
SOUND_LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
SOUND_BODY = st.dictionaries(
    st.text(max_size=20),
    st.recursive(
        SOUND_LEAF,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
        max_leaves=8,
    ),
    max_size=5,
)


def refusal(body: bytes, **limits: Any) -> Error:
    with pytest.raises(Error) as caught:
        read(body, **limits)
    error = caught.value
    assert error.status == 400
    assert len(error.message.splitlines()) == 1
    assert len(dump(error.message)) + len(dump(error.param)) < 1900
    return error


def strict_json(data: bytes) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(data.decode("utf-8"), parse_constant=refuse)


def nested(depth: int, *, is_list: bool) -> str:
    return "[" * depth + "]" * depth if is_list else '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"hello", "byte 0"),
        (b'{"messages":', "byte 12"),
        (b'{"messages":[', "byte 13"),
        (b'{"a":1} x', "byte 8"),
        ('{"a":"é€"} {}'.encode(), "byte 14"),
        (b'{"a":1}\x00', "byte 7"),
        (b"[]", "must be a JSON object"),
        (b'"hello"', "must be a JSON object"),
        (b"null", "must be a JSON object, got null"),
        (b"7", "must be a JSON object, got 7"),
        (b"{'a':1}", "byte 1"),
        (b'{"a":1,}', "byte 6"),
        (b'{"a":"\x01"}', "byte 6"),
    ],
)
def test_syntax_is_refused_with_its_place(body: bytes, words: str) -> None:
    error = refusal(body)
    assert type(error) is BadJson
    assert words in error.message


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":"\xff"}',
        b'{"inputs":"\xc3"}',
        b'{"inputs":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"inputs":"x"}',
        *('{"inputs":"x"}'.encode(name) for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32-le")),
    ],
)
def test_other_encodings_are_refused_as_encodings(body: bytes) -> None:
    assert refusal(body).code == "bad_encoding"


def test_bad_utf8_is_refused_with_its_place() -> None:
    assert "byte 11 " in refusal(b'{"inputs":"\xff"}').message


@pytest.mark.parametrize("surrogate", [r"\ud800", r"\udfff", r"a\udc00\ud800", r"\uD83D\u0041"])
@pytest.mark.parametrize(
    ("form", "path"),
    [
        ('{"messages":[{"role":"user","content":"%s"}]}', "messages[0].content"),
        ('{"messages":[{"role":"user","content":"x"},{"role":"%s","content":"x"}]}', "messages[1].role"),
        ('{"inputs":"x","model":"%s"}', "model"),
        ('{"inputs":"x","parameters":{"stop":"%s"}}', "parameters.stop"),
        ('{"stop":["a","%s"]}', "stop[1]"),
    ],
)
def test_a_lone_surrogate_names_its_field(form: str, path: str, surrogate: str) -> None:
    error = refusal((form % surrogate).encode())
    assert isinstance(error, BadField)
    assert error.param == path
    assert path in error.message


def test_a_lone_surrogate_in_a_key_is_refused() -> None:
    assert "key of metadata" in refusal(b'{"metadata":{"\\ud800":1}}').message
    assert "key of the body" in refusal(b'{"\\ud800":1}').message


def test_a_surrogate_pair_is_one_character() -> None:
    assert read(b'{"inputs":"\\ud83d\\ude00"}') == {"inputs": "\U0001f600"}


def test_nul_is_text_like_any_other() -> None:
    assert read(b'{"inputs":"a\\u0000b"}') == {"inputs": "a\0b"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000, "-" + "9" * 5000])
@pytest.mark.parametrize(
    ("form", "path"),
    [
        ('{"temperature":%s}', "temperature"),
        ('{"inputs":"x","parameters":{"logit_bias":{"5":%s}}}', "parameters.logit_bias.5"),
        ('{"stop_token_ids":[1,%s]}', "stop_token_ids[1]"),
    ],
)
def test_a_number_without_a_value_names_its_field(form: str, path: str, number: str) -> None:
    error = refusal((form % number).encode())
    assert isinstance(error, BadField)
    assert error.param == path
    assert number[:20] in error.message


def test_five_problems_are_named_however_many_there_are() -> None:
    error = refusal(b'{"a":[' + b"NaN," * 100_000 + b'NaN],"b":"\\ud800"}')
    assert isinstance(error, BadField)
    assert [problem.path for problem in error.problems] == [f"a[{index}]" for index in range(5)]


def test_a_bad_number_in_a_huge_body_is_refused_by_its_place() -> None:
    body = b'{"a":[' + b"1, " * 500_000 + b"NaN]}"
    assert f"byte {len(body) - 5}" in refusal(body).message


def test_the_last_of_two_equal_keys_wins() -> None:
    assert read(b'{"a":1,"b":2,"a":3}') == {"a": 3, "b": 2}


@pytest.mark.parametrize("is_list", [True, False])
def test_depth_is_counted_exactly(is_list: bool) -> None:  # noqa: FBT001
    for rest in ("", ',"b":[{"c":{}}]'):
        deepest = '{"a":' + nested(DEPTH - 1, is_list=is_list) + rest + "}"
        assert read(deepest.encode()) == json.loads(deepest)
        too_deep = '{"a":' + nested(DEPTH, is_list=is_list) + rest + "}"
        assert "deeper than 64" in refusal(too_deep.encode()).message
    assert read(b'{"a":[[1]]}', depth=3)
    with pytest.raises(BadJson, match="deeper than 2"):
        read(b'{"a":[[1]]}', depth=2)


@pytest.mark.parametrize("depth", [1_000, 5_000, 200_000])
@pytest.mark.parametrize("is_list", [True, False])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_deep_bodies_are_refused_as_deep(place: str, is_list: bool, depth: int) -> None:  # noqa: FBT001
    error = refusal((place % nested(depth, is_list=is_list)).encode())
    assert error.code == "bad_json"
    assert "deeper than 64" in error.message


def test_what_follows_the_document_is_not_followed() -> None:
    assert "byte 9" in refusal(b'{"a":"x"}' + b"}" * 100_000 + b"{" * 70).message


@pytest.mark.parametrize("body", ["[" * 200_000, '{"a":' * 200_000, '{"a":"' + "[" * 200_000, '{"a' * 200_000])
def test_open_ends_are_refused_at_any_depth(body: str) -> None:
    assert refusal(body.encode()).code == "bad_json"


def test_brackets_inside_text_are_text() -> None:
    body = {"inputs": '["\\{' * 60_000, "parameters": {}}
    assert read(dump(body)) == body


def test_a_million_messages_are_refused_before_they_are_built() -> None:
    body = b'{"stream":true,"messages":[' + b'{"role":"user","content":"x"},' * 1_000_000 + b"{}]}"
    error = refusal(body)
    assert isinstance(error, BadField)
    assert error.param == "messages"
    assert "messages has more than 100000 items" in error.message


def test_too_much_structure_is_refused_whatever_its_form() -> None:
    assert "a has 5 items; the body has more than 5 arrays" in refusal(b'{"a":[{},{},{},{},{}]}', brackets=5).message
    assert "more than 2 arrays" in refusal(b'{"a":{"b":{},"c":{}}}', brackets=2).message
    assert "more than 2 arrays" in refusal(b"[{},{},{}]", brackets=2).message
    assert read(b'{"a":[{},{}],"b":"["}', brackets=4) == {"a": [{}, {}], "b": "["}
    named = refusal(b'{"a":[{},{}],"b":1}', brackets=3, lengths={"a": 1, "b": 0})
    assert (named.param, named.message) == ("a", "a must have at most 1 items, got 2")


def test_values_are_counted_before_they_are_built_and_a_key_costs_more() -> None:
    many = refusal(b'{"b":0,"a":[' + b"1," * 600_000 + b"1]}")
    assert (many.param, many.message.partition(";")[0]) == ("a", "a has more than 100000 items")
    assert "option.max_json_values; a key counts as 8" in many.message
    assert refusal(b'{"a":[' + b"1," * 92 + b"1]}", values=99).message.startswith("a has 93 items; the body has more")
    assert len(read(b'{"a":[' + b"1," * 91 + b"1]}", values=99)["a"]) == 92
    assert refusal(b'{"a":[1,2],"b":[' + b"1," * 92 + b"1]}", values=99, lengths={"b": 3}).param == "b"
    keys = b",".join(b'"k%d":1' % place for place in range(70_000))
    assert refusal(b"{%b}" % keys).message.startswith("the body has more than 524288 values")
    assert refusal(b'{"a":{%b}}' % keys).message.startswith("the body has more than 524288 values")


def test_commas_and_colons_inside_text_are_text() -> None:
    body = {"inputs": ',:\\,"' * 300_000, "parameters": {}}
    assert read(dump(body)) == body


def test_arrays_of_token_ids_pass() -> None:
    body = {"input": [[100_000] * 255] * 2048}
    assert read(dump(body)) == body


@brief
@given(st.binary())
@example(b'{"a":"\\ud800", ')
def test_any_bytes_give_an_object_or_one_refusal(body: bytes) -> None:
    with contextlib.suppress(BadJson, BadField):
        assert isinstance(read(body), dict)


@brief
@given(SOUND_BODY, st.data())
def test_a_damaged_body_gives_an_object_or_one_refusal(body: dict[str, Any], data: st.DataObject) -> None:
    whole = dump(body)
    at = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(BadJson, BadField):
        assert isinstance(read(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :]), dict)


@brief
@given(SOUND_BODY)
def test_what_was_written_is_read_back(body: dict[str, Any]) -> None:
    assert read(dump(body)) == body


@brief
@given(ANY_VALUE)
@example({"a": ["\ud800", 2**64, math.nan, -(2**63)]})
@example([b"x", {1, 2}, object()])
@example({"\ud800": {2**70: 1, None: 2}})
def test_dump_never_fails_and_is_strict_json(value: object) -> None:
    strict_json(dump(value))


def test_dump_of_what_json_cannot_hold() -> None:
    assert strict_json(dump([math.nan, math.inf, 2**64 - 1, -(2**63)])) == [None, None, 2**64 - 1, -(2**63)]
    assert strict_json(dump(["\ud800", 2**64 - 1, -(2**63), math.nan])) == ["\\ud800", 2**64 - 1, -(2**63), None]
    assert strict_json(dump([2**64, 2**70, -(2**63) - 1])) == [2.0**64, 2.0**70, -(2.0**63)]


@pytest.mark.parametrize("depth", [250, 300, 5_000])
def test_dump_of_deep_values_does_not_fail(depth: int) -> None:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    strict_json(dump({"deep": value}))


def test_dump_is_compact_utf8() -> None:
    assert dump({"a": ["é", 1]}) == '{"a":["é",1]}'.encode()


@pytest.mark.parametrize("body", [b"\xff", "x".encode("utf-16"), b"\xef\xbb\xbfx"])
def test_plain_text_is_utf8_too(body: bytes) -> None:
    assert text("né\0\n".encode()) == "né\0\n"
    with pytest.raises(BadEncoding):
        text(body)


EVERY_LINE_END = "".join(chr(code) for code in range(0x110000) if len(f"a{chr(code)}b".splitlines()) > 1)


def test_no_line_reader_finds_a_line_in_a_json_text() -> None:
    assert set("\n\r\x1c\x85\u2028\u2029") < set(EVERY_LINE_END)
    value = {f"k{EVERY_LINE_END}": [EVERY_LINE_END, f"\\{EVERY_LINE_END}é入", 2**70]}
    data = dump(value)
    assert data.decode().splitlines() == [data.decode()]
    assert json.loads(data) == {f"k{EVERY_LINE_END}": [EVERY_LINE_END, f"\\{EVERY_LINE_END}é入", 2.0**70]}
    assert "é入".encode() in data, "nothing else is escaped"


@brief
@given(ANY_TEXT)
def test_escaping_a_json_text_changes_no_value(text: str) -> None:
    data = json.dumps(text.encode("utf-8", "ignore").decode(), ensure_ascii=False).encode()
    escaped = escape_line_ends(data)
    assert json.loads(escaped) == json.loads(data)
    assert len(escaped.decode().splitlines()) == 1
