"""Calls out of an answer that is JSON alone."""

import json
import random

import pytest

from lmi_chat.engine.vllm.parsing.forced import Named, Required

CALLS = [
    ("a", {"x": '} ] , { "name": \\', "y": [1, {"z": "\u00e9\U0001f31f"}]}),
    ("b\"'", {}),
    ("a", {"deep": {"er": [[], {}]}}),
]


def read(stage: Named | Required, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    content, calls = "", list[tuple[str, str]]()
    parts = [part for piece in pieces for part in stage.feed(piece, [])]
    for part in [*parts, *stage.finish(is_cut=False)]:
        if part.call is None:
            content += part.text
            continue
        if part.call.name:
            assert part.call.place == len(calls)
            calls.append((part.call.name, ""))
        name, text = calls[part.call.place]
        calls[part.call.place] = (name, text + part.text)
    return content, calls


def cut(text: str, seed: int) -> list[str]:
    dice, pieces = random.Random(seed), []
    while text:
        size = dice.randint(1, 7)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("key", ["parameters", "arguments"])
@pytest.mark.parametrize("seed", range(20))
def test_an_array_of_calls_is_the_same_in_any_pieces(seed: int, key: str, indent: int | None) -> None:
    text = json.dumps([{"name": name, key: arguments} for name, arguments in CALLS], indent=indent)
    content, calls = read(Required(), cut(text, seed))
    assert [(name, json.loads(arguments)) for name, arguments in calls] == CALLS
    assert not content


def test_an_array_that_is_cut_leaves_a_call_that_does_not_look_complete() -> None:
    text = json.dumps([{"name": name, "parameters": arguments} for name, arguments in CALLS])
    for end in range(len(text)):
        _, calls = read(Required(), [text[:end]])
        for (_, arguments), (_, whole) in zip(calls, CALLS, strict=False):
            try:
                said = json.loads(arguments)
            except ValueError:
                continue
            assert said == whole


@pytest.mark.parametrize("text", ["No.", ' {"name": "a"}', '  [{"nom": "a"}]'])
def test_what_is_no_array_of_calls_is_content(text: str) -> None:
    assert read(Required(), list(text)) == (text, [])


def test_the_whole_text_is_a_named_calls_arguments() -> None:
    assert read(Named("f"), ["\n", ' {"a"', ": 1}"]) == ("", [("f", '{"a": 1}')])
    assert read(Named("f"), [" ", ""]) == ("", [])
