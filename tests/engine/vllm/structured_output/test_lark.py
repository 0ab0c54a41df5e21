"""Expressions of llguidance's Lark, each tried by its own compiler."""

import re

import pytest

from lmi_chat.engine.vllm.structured_output.lark import HEAD, Grammar, choice, escape, quote, regex, without

SPECIAL = {"<call>": 7, "<call><call>": 8, "": 9}


def test_special_tokens_are_written_as_ids_and_the_longest_first() -> None:
    grammar = Grammar(SPECIAL)
    assert grammar.literal('a<call>"b<call><call>') == '"a" <[7]> "\\"b" <[8]>'
    assert grammar.literal("") == ""
    assert Grammar({}).literal("<call>") == '"<call>"'


def test_the_same_rule_is_written_once() -> None:
    grammar = Grammar({})
    assert grammar.rule('"a"') == grammar.rule('"a"') != grammar.rule('"a"', "[lazy]")
    assert grammar.text("r0") == f'{HEAD}\nstart: r0\nr0: "a"\nr1[lazy]: "a"\n'


def test_text_up_to_a_marker_is_lazy_or_ends_with_the_special_token() -> None:
    grammar = Grammar(SPECIAL)
    assert grammar.until("<call>x") == 'T0 <[7]> "x"'
    assert grammar.until("end") == "r2"
    assert 'r2[lazy]: T1 "end"' in grammar.text("r2")


@pytest.mark.parametrize("text", ["a.b*c", "<|a|>", "[x]{2}", "a/b", "a\nb\tc\r", "é 数", "#&~-", "\\d"])
def test_an_escaped_text_matches_itself_alone(text: str) -> None:
    assert re.fullmatch(escape(text), text)
    assert not re.fullmatch(escape(text), text + "a")


def test_a_slash_does_not_end_a_regex_and_an_escaped_one_stays() -> None:
    assert regex(r"a/b\/c\\/") == r"/a\/b\/c\\\//"
    assert regex("a\nb") == r"/a\nb/"


def test_alternatives_stand_in_brackets_where_there_are_several() -> None:
    assert choice([quote("a")]) == '"a"'
    assert choice(["r1", "r2"]) == "(r1 | r2)"
    assert without(["a", "b"], ["x+"]) == "/x+/ & ~/(?s:.*)(a|b)(?s:.*)/"
    assert without([]) == "/(?s:.*)/"
