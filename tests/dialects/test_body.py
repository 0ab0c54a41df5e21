"""Every row of the table of parameters: its bounds, just beyond them, null, and other types (faults.md, 3b)."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from lmi_chat.dialects.body import Checker
from lmi_chat.dialects.chat.body import ChatBody
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.standard.body import Parameters
from lmi_chat.job import SamplingParams
from lmi_chat.limits import Limits
from lmi_chat.text import echo, nearest
from tests.support.bounds import Bounds, bounds
from tests.support.fakes import deployment

LIMITS = Limits()
OTHER_TYPES: dict[str, list[Any]] = {
    "integer": [True, "3", 4.5, 0.5, [], {}],
    "number": [False, "3", [1], {}],
    "boolean": [0, 1, "yes", "true", 1.0, []],
    "string": [1, True, [], {}],
    "strings": [1, True, {}, [1], ["a", None], [["a"]]],
    "token ids": [1, "1", {}, [True], [1.5], ["1"], [[1]]],
    "bias": [1, "1", [], {"1": "2"}, {"1": True}, {"1": None}, {"one": 0}, {"-1": 0}, {"1.0": 0}, {"²": 0}, {"": 0}],
    "object": [1, "{}", []],
}
BODIES = {"num_beams": Parameters}
SAMPLING: dict[str, Bounds] = {
    name: found
    for name, row in {
        **deployment().checkers[Parameters].properties,
        **deployment().checkers[ChatBody].properties,
    }.items()
    if (found := bounds(row)).kind in OTHER_TYPES and (name in BODIES or name in ChatBody.__annotations__)
}
Case = tuple[str, Any]


def ids(case: Any) -> str:
    return str(case)[:40]


def read(name: str, value: object, limits: Limits) -> BodyReader:
    reader = BodyReader(deployment(limits=limits), prefix="here.")
    reader.read({name: value}, BODIES.get(name, ChatBody))
    return reader


def wrong(name: str, value: object, limits: Limits = LIMITS) -> str:
    reader = read(name, value, limits)
    assert (reader.given, reader.extra, reader.unknown) == ({}, {}, [])
    [problem] = reader.problems
    assert problem.path == f"here.{name}"
    assert problem.text.startswith(f"here.{name} ")
    return problem.text


def right(name: str, value: object, limits: Limits = LIMITS) -> Any:
    reader = read(name, value, limits)
    assert not reader.problems
    [(place, checked)] = (reader.given | reader.extra).items()
    assert reader.paths == {place: f"here.{name}"}
    return checked


def numeric() -> Iterator[tuple[str, Bounds, float, float]]:
    for name, field in SAMPLING.items():
        if field.kind in {"integer", "number"}:
            low, high = field.low, field.high
            assert low is not None
            assert high is not None
            yield name, field, low, high


def inside() -> Iterator[Case]:
    for name, field, low, high in numeric():
        yield name, high
        yield name, 1e-9 if field.is_above_low else low


def outside() -> Iterator[tuple[str, Any, float]]:
    for name, field, low, high in numeric():
        yield from ((name, value, high) for value in (high + 1, high + 10**9))
        yield from ((name, value, low) for value in (low - 1, low - 10**9))
        yield from ((name, value, low) for value in ([low, -1e-9] if field.is_above_low else []))
        if field.kind == "integer":
            yield from ((name, value, high) for value in (2**64, 2**70, 1e19, 1e300))


def test_the_bounds_are_the_contracts() -> None:
    contract = {
        "frequency_penalty": (-2, 2),
        "presence_penalty": (-2, 2),
        "temperature": (0, 2),
        "top_p": (0, 1),
        "top_k": (-1, 2**31 - 1),
        "top_logprobs": (0, 20),
        "max_tokens": (1, 2**31 - 1),
        "n": (1, 16),
        "seed": (-(2**63), 2**63 - 1),
        "logit_bias": (-100, 100),
    }
    assert {name: (SAMPLING[name].low, SAMPLING[name].high) for name in contract} == contract
    assert not any(field.is_above_low for field in SAMPLING.values())
    assert (LIMITS.max_messages, LIMITS.max_stop, LIMITS.max_stop_chars) == (2048, 16, 1024)
    assert (LIMITS.max_logit_bias, LIMITS.max_json_depth) == (1024, 64)


@pytest.mark.parametrize(("name", "value"), [*inside()], ids=ids)
def test_the_bounds_themselves_are_right(name: str, value: float) -> None:
    checked = right(name, value)
    assert checked == value
    assert type(checked) is (float if SAMPLING[name].kind == "number" else int)


@pytest.mark.parametrize(("name", "value", "bound"), [*outside()], ids=ids)
def test_beyond_a_bound_is_wrong_and_says_so(name: str, value: float, bound: float) -> None:
    text = wrong(name, value)
    assert str(bound) in text
    assert text.endswith(f"got {echo(value)}")


@pytest.mark.parametrize("name", [name for name, *_ in numeric()])
def test_no_number_is_no_number(name: str) -> None:
    assert wrong(name, math.nan)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, field in SAMPLING.items() for value in OTHER_TYPES[field.kind]],
    ids=ids,
)
def test_other_types_are_wrong_and_not_converted(name: str, value: object) -> None:
    assert re.search("must be | takes ", wrong(name, value))


@pytest.mark.parametrize("name", SAMPLING)
def test_null_is_absent(name: str) -> None:
    form = read(name, None, LIMITS)
    assert (form.given, form.extra, form.problems, form.unknown) == ({}, {}, [], [])


def test_an_integral_float_is_an_integer() -> None:
    """As JSON Schema has it: 2.0 is 2, and stays of one kind behind the check."""
    for name, given, checked in (("max_tokens", 2.0, 2), ("top_k", -1.0, -1), ("seed", 1e3, 1000)):
        found = right(name, given)
        assert (found, type(found)) == (checked, int)
    assert right("stop_token_ids", [1.0, 2]) == (1, 2)
    assert wrong("n", 2.5) == "here.n must be an integer, got 2.5"
    assert wrong("n", 17.0) == "here.n must be at least 1 and at most 16, got 17"


@pytest.mark.parametrize("name", ["temperature", "top_p", "max_tokens", "n", "seed", "top_k"])
def test_a_number_as_text_is_refused(name: str) -> None:
    """As OpenAI's API has it; vLLM and LMI take it."""
    assert re.search(r'must be an? (number|integer), got "1"$', wrong(name, "1"))


def test_an_integer_is_a_number() -> None:
    assert (right("temperature", 1), right("top_p", 1)) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "item"), [("stop", "a"), ("bad_words", "a"), ("stop_token_ids", 7), ("allowed_token_ids", 7)]
)
def test_arrays_have_a_most(name: str, item: object) -> None:
    most = int(SAMPLING[name].high or 0)
    assert right(name, [item] * most) == (item,) * most
    text = wrong(name, [item] * (most + 1))
    assert f"at most {most} " in text
    assert f"got {most + 1}" in text


def test_a_string_is_an_array_of_one() -> None:
    assert (right("stop", "日本"), right("stop", []), right("bad_words", "x")) == (("日本",), (), ("x",))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "item 0 is empty"),
        (["a", "", None, 3], "item 1 is empty, item 2 is null, item 3 is 3"),
        ([None], "takes strings of at least 1 and at most 1024 characters, item 0 is null"),
        (["a", "x" * 1025], "at most 1024 characters, item 1 has 1025"),
        ("x" * 1_000_000, "at most 1024 characters, item 0 has 1000000"),
        (["x"] * 10_000, "at most 16 strings, got 10000"),
    ],
)
def test_stop_strings(value: object, words: str) -> None:
    assert words in wrong("stop", value)


def test_token_ids() -> None:
    assert wrong("stop_token_ids", [1, -5]) == "here.stop_token_ids takes token ids of at least 0, item 1 is -5"
    assert wrong("stop_token_ids", ["a", 2.0, True]).endswith('item 0 is "a", item 2 is true')
    assert wrong("stop_token_ids", ["x"] * 900).count("item") == 5
    assert (right("stop_token_ids", []), right("stop_token_ids", [0])) == ((), (0,))
    assert "at least 1 token id" in wrong("allowed_token_ids", [])


def test_logit_bias() -> None:
    assert right("logit_bias", {"0": -100, "7": 100, "8": 0.5}) == {0: -100.0, 7: 100.0, 8: 0.5}
    assert right("logit_bias", {str(token): 1 for token in range(1024)})
    assert "at most 1024 tokens, got 49000" in wrong("logit_bias", {str(token): 1 for token in range(49_000)})
    assert "takes at most 1024 tokens, got 1025" in wrong("logit_bias", {f"bad{key}": "x" for key in range(1025)})
    assert "at least -100 and at most 100, token 7 has 1e+308" in wrong("logit_bias", {"7": 1e308})
    assert "token 7 has -100.5" in wrong("logit_bias", {"7": -100.5})
    assert right("logit_bias", {"9" * 9: 1}) == {999_999_999: 1.0}
    found = wrong("logit_bias", {"bad1": 1, "7": 101, "bad2": 2, "8": "x"})
    assert found == (
        'here.logit_bias takes token ids as keys, got "bad1", "bad2", '
        'and takes numbers of at least -100 and at most 100, token 7 has 101, token 8 has "x"'
    )
    assert wrong("logit_bias", {f"bad{place}": 1 for place in range(9)}).endswith('"bad4" and more')
    assert 'got "' + "9" * 10 in wrong("logit_bias", {"9" * 10: 1})
    assert 'got "' + "9" * 40 in wrong("logit_bias", {"9" * 5000: 1})


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("n", "max_n"),
        ("best_of", "max_n"),
        ("num_beams", "max_n"),
        ("top_logprobs", "max_logprobs"),
        ("prompt_logprobs", "max_logprobs"),
        ("stop", "max_stop"),
    ],
)
def test_the_deployment_sets_its_own_bounds(name: str, limit: str) -> None:
    limits = dataclasses.replace(LIMITS, **{limit: 3})
    value: Any = ["x"] * 3 if name == "stop" else 3
    assert right(name, value, limits)
    assert "at most 3" in wrong(name, ["x"] * 4 if name == "stop" else 4, limits)


def test_a_deployments_limits_are_its_own_inside_a_field_too() -> None:
    limits = dataclasses.replace(LIMITS, max_stop_chars=2, max_logit_bias=1)
    assert "at most 2 characters, item 0 has 3" in wrong("stop", "abc", limits)
    assert "at most 1 tokens, got 2" in wrong("logit_bias", {"1": 0, "2": 0}, limits)
    assert right("stop", "abc") == ("abc",)


@pytest.mark.parametrize("body", [ChatBody, Parameters])
def test_the_table_and_sampling_agree(body: type) -> None:
    checker = Checker(body, LIMITS)
    own = {row.name: row.default for row in dataclasses.fields(SamplingParams)} | {"max_tokens": 30}
    sampled = {name: place for name, (place, is_sampling) in checker.places.items() if is_sampling}
    assert len(sampled) > 20
    for name, place in sampled.items():
        default = checker.defaults[name]
        assert default is None or own[place] == default


@pytest.mark.parametrize(
    ("name", "near"),
    [("temprature", "temperature"), ("topp", "top_p"), ("qqq", ""), ("", ""), ("temperature" * 10_000, "")],
)
def test_the_nearest_known_name(name: str, near: str) -> None:
    assert nearest(name, SAMPLING) == near
