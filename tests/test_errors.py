"""Every refusal owns its status; what it says fits a status line and 2 KiB."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat import errors
from lmi_chat.codec.json_text import dump
from lmi_chat.dialects import error_body
from lmi_chat.errors import PROBLEMS_MOST, BadField, Error, Problem
from lmi_chat.text import echo, one_line
from tests.support.fakes import brief

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
CONTRACT = {
    "BadJson": (400, "invalid_request_error", "bad_json"),
    "BadEncoding": (400, "invalid_request_error", "bad_encoding"),
    "BadForm": (400, "invalid_request_error", "bad_form"),
    "BadField": (400, "invalid_request_error", "bad_field"),
    "TemplateRefusal": (400, "invalid_request_error", "bad_field"),
    "PromptTooLong": (400, "invalid_request_error", "context_length_exceeded"),
    "Conflict": (409, "invalid_request_error", "conflict"),
    "AdaptersOff": (400, "invalid_request_error", "adapters_off"),
    "AdapterExists": (400, "invalid_request_error", "adapter_exists"),
    "AdaptersFull": (507, "unavailable_error", "adapters_full"),
    "BadAdapter": (400, "invalid_request_error", "bad_adapter"),
    "Unauthorized": (401, "authentication_error", "invalid_api_key"),
    "Forbidden": (403, "invalid_request_error", "origin_not_allowed"),
    "ModelNotFound": (404, "invalid_request_error", "model_not_found"),
    "ModelsFull": (507, "unavailable_error", "models_full"),
    "NoThreads": (400, "invalid_request_error", "thread_unsupported_request"),
    "NoPrevious": (400, "invalid_request_error", "previous_response_not_found"),
    "NotFound": (404, "not_found_error", "not_found"),
    "BadMethod": (405, "invalid_request_error", "method_not_allowed"),
    "TooLarge": (413, "invalid_request_error", "body_too_large"),
    "BadMedia": (415, "invalid_request_error", "unsupported_media_type"),
    "RateLimited": (429, "rate_limit_error", "rate_limit_exceeded"),
    "Unavailable": (503, "unavailable_error", "unavailable"),
    "Busy": (503, "unavailable_error", "busy"),
    "Loading": (503, "unavailable_error", "loading"),
    "Draining": (503, "unavailable_error", "draining"),
    "CutOff": (503, "unavailable_error", "draining"),
    "EngineDown": (503, "unavailable_error", "engine_down"),
    "TimedOut": (504, "timeout_error", "deadline_exceeded"),
    "HookFailed": (424, "server_error", "custom_code_failed"),
    "Bug": (500, "server_error", "internal_error"),
}
SPENT = {"HookFailed", "CutOff", "EngineDown", "TimedOut", "Bug"}


def classes(base: type[Error]) -> list[type[Error]]:
    return [each for child in base.__subclasses__() for each in (child, *classes(child))]


def test_every_class_owns_its_status_and_code() -> None:
    found = {each.__name__: each for each in classes(Error) if each.__module__ == errors.__name__}
    assert {name: (each.status, each.kind, each.code) for name, each in found.items()} == CONTRACT
    assert {name for name, each in found.items() if not each.is_retry_free} == SPENT
    assert all((each.retry_after_s is not None) == (each.status == 503) for each in found.values())


def test_a_shortened_error_is_the_same_error() -> None:
    for error in (BadField([Problem("a.b", "a.b is " + "x" * 500)]), errors.CutOff("y" * 500)):
        short = error.shortened(40)
        assert type(short) is type(error)
        assert (len(short.message.encode()), short.param) == (40, error.param)
        assert error.message.startswith(short.message[:-1])
    assert len(error.message) == 500


def test_five_problems_are_named_and_the_rest_counted() -> None:
    def message(count: int) -> str:
        return BadField([Problem(f"p{index}", f"p{index} is wrong") for index in range(count)]).message

    assert message(1) == "p0 is wrong"
    assert message(5) == "p0 is wrong; p1 is wrong; p2 is wrong; p3 is wrong; p4 is wrong"
    assert message(6).endswith("p4 is wrong; and 1 more")
    assert message(PROBLEMS_MOST - 1).endswith(f"; and {PROBLEMS_MOST - 6} more")
    assert message(PROBLEMS_MOST).endswith(f"; and at least {PROBLEMS_MOST - 5} more")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (-(2**64), "-18446744073709551616"),
        (2**300, "a number of 301 bits"),
        (1e30, "1e+30"),
        ("a\nb", '"a b"'),
        ("x" * 40, '"' + "x" * 40 + '"'),
        ("x" * 41, '"' + "x" * 40 + '…"'),
        ("\ud800\0", '"\\ud800\\x00"'),
        ([1, 2], "an array of 2 items"),
        ({"a": 1}, "an object"),
        (b"", "a value of another type"),
    ],
)
def test_values_are_repeated_briefly(value: object, shown: str) -> None:
    assert echo(value) == shown


@pytest.mark.parametrize(
    ("text", "limit", "line"),
    [
        (" a\r\n\tb\u2028c\x1c ", 20, "a b c"),
        ("a\0\x1b\x7f\x9f", 21, r"a\x00\x1b\x7f\x9f"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abc…"),
        ("éééé", 8, "éééé"),
        ("ééééé", 8, "éé…"),
        ('""""', 8, '""""'),
        ('"""""', 8, '""…'),
    ],
)
def test_one_line(text: str, limit: int, line: str) -> None:
    assert one_line(text, limit) == line


@brief
@given(ANY_TEXT, st.integers(3, 60))
def test_a_line_is_printable_and_as_short_as_asked(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(dump(line)) - 2 <= limit
    assert line.splitlines() in ([], [line])
    assert json.loads(dump(line)) == line


@brief
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1), st.sampled_from([1, 50, 5000]))
def test_any_error_fits_two_kibibytes(texts: list[tuple[str, str]], times: int) -> None:
    error = BadField([Problem(path * times, text * times) for path, text in texts])
    for dialect in ("chat", "standard"):
        assert len(dump(error_body(error, dialect, is_tgi=True))) <= 2048
