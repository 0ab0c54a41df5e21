"""Structured outputs through the real engine: what is asked for is what comes; what cannot be had harms nobody."""

import inspect
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from lmi_chat.engine.vllm.structured_output import trials
from lmi_chat.job import OutputConstraint
from tests.real.conftest import Server

pytestmark = pytest.mark.slow
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["good", "bad"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
DATE = r"\d{4}-\d{2}-\d{2}"
COLOURS = ["red", "green", 'a "quoted"\nč']
EBNF = 'root ::= "SELECT " column " FROM " column\ncolumn ::= [a-z]+ | "*"'
AMBIGUOUS = "root ::= s\ns ::= s s s | s s | [a-z ]"
# Each must be refused; most of them stop xgrammar, or an unguarded engine, for seconds or for good.
REFUSED: dict[str, dict[str, Any]] = {
    "regex: nested counts": {"guided_regex": "(((a{1,99}){1,99}){1,99}){1,99}"},
    "regex: states": {"guided_regex": "([a-z]{0,99}){0,99}"},
    "regex: counts": {"guided_regex": "((a|b|c){0,999}){0,999}"},
    "regex: syntax": {"guided_regex": "(a"},
    "regex: look-ahead": {"guided_regex": "(?=a)b"},
    "regex: back reference": {"guided_regex": r"(a)\1"},
    "grammar: syntax": {"guided_grammar": "root ::= ("},
    "grammar: no root": {"guided_grammar": 'other ::= "a"'},
    "grammar: only itself": {"guided_grammar": "root ::= root"},
    "grammar: ambiguous": {"guided_grammar": AMBIGUOUS},
    "grammar: very ambiguous": {"guided_grammar": 'root ::= a a a a a a a a\na ::= a a | [a-z]* | ""'},
    "grammar: ambiguous, later": {"guided_grammar": "root ::= " + '"x" ' * 200 + "s\ns ::= s s | [a-z]"},
    "grammar: exponential": {
        "guided_grammar": "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40)) + '\nr40 ::= "a"\nroot ::= r0'
    },
    "schema: type": {"guided_json": {"type": "strin"}},
    "schema: properties": {"guided_json": {"type": "object", "properties": 3}},
    "schema: bounds": {"guided_json": {"type": "string", "minLength": 5, "maxLength": 2}},
    "schema: keyword": {"guided_json": {"type": "array", "uniqueItems": True}},
    "schema: itself": {"guided_json": {"allOf": [{"$ref": "#"}]}},
    "schema: items": {"guided_json": {"type": "array", "minItems": 1000, "maxItems": 100_000}},
    "schema: pattern": {"guided_json": {"type": "string", "pattern": "([a-z]{0,99}){0,99}"}},
    "schema: many optional": {
        "guided_json": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1500)}}
    },
    "schema: enum": {"guided_json": {"enum": [*range(50_000)]}},
}
# What looks like a bomb to xgrammar and is none here: it must be served, and quickly.
SERVED: dict[str, dict[str, Any]] = {
    "regex: long": {"guided_regex": ".{0,60000}"},
    "schema: lengths": {
        "guided_json": {
            "type": "object",
            "properties": {f"p{i}": {"type": "string", "maxLength": 200 + i} for i in range(5)},
            "required": [f"p{i}" for i in range(5)],
        }
    },
    "schema: properties": {
        "guided_json": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(300)}}
    },
}


def test_what_is_leant_on_in_vllm() -> None:
    from vllm.sampling_params import SamplingParams as VllmSamplingParams
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.structured_output import backend_guidance

    assert callable(VllmSamplingParams._validate_structured_outputs)
    assert StructuredOutputsParams(regex="a")._backend is None
    source = inspect.getsource(backend_guidance)
    for what in (
        "LLMatcher.grammar_from_json_schema(",
        "llguidance.grammar_from(tp, grammar_spec)",
        "is_tokenizer_supported",
    ):
        assert what in source
    assert "max(vocab_size, len(tokenizer))" in source


def chat(**fields: Any) -> dict[str, Any]:
    question = "Give me a person called Ada as JSON."
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 100, **fields}


def said(server: Server, **fields: Any) -> str:
    """The text, which must be the same streamed, and end by itself."""
    choice = server.whole(chat(**fields))["choices"][0]
    assert choice["finish_reason"] == "stop"
    lines = server.lines(chat(**fields))
    text: str = choice["message"]["content"]
    assert "".join(line["choices"][0]["delta"].get("content", "") for line in lines) == text
    return text


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": FORMAT},
        {"structured_outputs": {"json": PERSON}},
        {"guided_json": json.dumps(PERSON)},
        {"guided_json": PERSON, "temperature": 1.5, "seed": 7},
    ],
)
def test_a_schema(server: Server, fields: dict[str, Any]) -> None:
    person = json.loads(said(server, **fields))
    assert person.keys() == {"name", "age", "mood"}
    assert isinstance(person["name"], str)
    assert 1 <= len(person["name"]) <= 30
    assert 0 <= person["age"] <= 150
    assert person["mood"] in {"good", "bad"}


DIGITS = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "minItems": 2, "maxItems": 2}


def test_whitespace_is_bounded(server: Server) -> None:
    """A small model would write blanks and newlines between the numbers until it has no tokens left."""
    wanted = chat(guided_json=DIGITS, messages=[{"role": "user", "content": "Two digits, each on a line of its own."}])
    texts = {}
    ways: dict[str, dict[str, Any]] = {
        "usual": {},
        "compact": {"guided_whitespace_pattern": ""},
        "compact too": {"structured_outputs": {"json": DIGITS, "disable_any_whitespace": True}},
        "lines": {"structured_outputs": {"json": DIGITS, "whitespace_pattern": "\\n"}},
        "any": {"guided_whitespace_pattern": "[ \\n]+", "max_tokens": 20},
    }
    for name, fields in ways.items():
        choice = server.whole(wanted | fields)["choices"][0]
        texts[name] = choice["message"]["content"]
        assert choice["finish_reason"] == "stop" or name == "any"
    assert re.fullmatch(r"\[[1-9],[ ]?[1-9]\]", texts["usual"])
    assert re.fullmatch(r"\[[1-9],[1-9]\]", texts["compact"])
    assert texts["compact too"] == texts["compact"]
    assert re.fullmatch(r"\[[1-9]\n,\n[1-9]\]", texts["lines"])
    assert re.fullmatch(r"\[[ \n]*([1-9][ \n]*(,[ \n]*([1-9][ \n]*\]?)?)?)?", texts["any"])


@pytest.mark.parametrize(
    ("schema", "pattern", "right", "wrong"),
    [
        (DIGITS, None, ["[1,2]", "[1, 2]"], ["[1,  2]", "[1,\n2]", "[ 1,2]", "[1 ,2]", "[1,2 ]"]),
        ({"type": "object"}, None, ['{"a": [1, {}], "b":"  "}'], ['{"a":  1}', '{ "a":1}', '{"a" :1}', '{"a":1,\n']),
        (DIGITS, "", ["[1,2]"], ["[1, 2]"]),
        (DIGITS, "[ ]?", ["[1,2]", "[1 , 2]"], ["[1,  2]"]),
        (DIGITS, "a|b", ["[1a,b2]"], ["[1,2]", "[1ab,2]"]),
        (DIGITS, r"[\n ]*", ["[1,2]", "[\n  1,\n  2\n]"], ["[1,\t2]"]),
        (DIGITS | {"x-guidance": {"item_separator": ";"}}, None, ["[1;2]"], ["[1,2]"]),
    ],
)
def test_what_the_compiler_makes_of_whitespace(
    schema: dict[str, Any], pattern: str | None, right: list[str], wrong: list[str]
) -> None:
    """By both defaults that vLLM gives it, of which a schema's own word takes no notice."""
    import llguidance

    _, sent = trials.source(OutputConstraint("json", json.dumps(schema), whitespace=pattern))
    for is_flexible in (True, False):
        defaults: Any = {"whitespace_flexible": is_flexible}
        grammar = llguidance.LLMatcher.grammar_from_json_schema(sent, defaults=defaults)
        for text in (*right, *wrong):
            matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar, log_level=0)
            assert not matcher.is_error(), matcher.get_error()
            tokens = list(text.encode())
            is_right = matcher.validate_tokens(tokens) == len(tokens)
            assert is_right == (text in right), text


def test_a_regex(server: Server) -> None:
    for fields in ({"guided_regex": DATE}, {"structured_outputs": {"regex": DATE}}):
        assert re.fullmatch(DATE, said(server, **fields))


def test_choices(server: Server) -> None:
    for fields in ({"guided_choice": COLOURS}, {"structured_outputs": {"choice": COLOURS}}):
        assert said(server, **fields) in COLOURS
    assert said(server, guided_choice=COLOURS[2:]) == COLOURS[2]


@pytest.mark.parametrize("grammar", [EBNF, 'start: "SELECT " C " FROM " C\nC: /[a-z]{1,9}|\\*/'])
def test_a_grammar(server: Server, grammar: str) -> None:
    fields = {"guided_grammar": grammar, "stop": [], "logit_bias": {}}
    body = chat(**fields, max_tokens=40)
    text = server.whole(body)["choices"][0]["message"]["content"]
    assert re.fullmatch(r"SELECT ([a-z]+|\*)( FROM ([a-z]+|\*))?.*", text)


def test_any_json_object(server: Server) -> None:
    for fields in ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}):
        choice = server.whole(chat(**fields, max_tokens=60, repetition_penalty=1.2))["choices"][0]
        text = choice["message"]["content"]
        assert text.lstrip().startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(text), dict)


def test_tgis_grammar(server: Server) -> None:
    def answer(**parameters: Any) -> str:
        prompt, limit = "Ada is a person of 36 years. As JSON:", {"max_new_tokens": 100}
        body: dict[str, object] = {"inputs": prompt, "parameters": limit | parameters}
        text: str = server.whole(body)["generated_text"]
        assert server.lines(body)[-1]["generated_text"] == text
        return text

    assert json.loads(answer(grammar={"type": "json", "value": PERSON})).keys() == {"name", "age", "mood"}
    assert json.loads(answer(response_format=FORMAT)).keys() == {"name", "age", "mood"}
    for form in ({"type": "json_object", "value": PERSON}, {"type": "json", "value": PERSON}):
        assert json.loads(answer(response_format=form)).keys() == {"name", "age", "mood"}
        assert json.loads(answer(grammar=form)).keys() == {"name", "age", "mood"}
    assert re.fullmatch(DATE, answer(grammar={"type": "regex", "value": DATE}))
    assert answer(guided_choice=COLOURS) in COLOURS


def test_openais_client_parses_into_a_model(server: Server) -> None:
    class Person(BaseModel):
        name: str
        age: int
        tags: list[str]

    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")
    messages: Any = [{"role": "user", "content": "Ada is 36. Give name, age and no tags."}]
    answer = client.chat.completions.parse(
        model="lmi", messages=messages, response_format=Person, temperature=0, max_tokens=200, frequency_penalty=0.5
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


@dataclass
class Watch:
    """What the neighbours saw, in seconds: the gaps of two streams' lines, the answers of /ping."""

    gaps: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)


@contextmanager
def neighbours(server: Server) -> Iterator[Watch]:
    """A stream that goes on and on, and /ping ten times a second."""
    watch, over = Watch(), threading.Event()

    def stream() -> None:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")
        while not over.is_set():
            last = time.monotonic()
            messages: Any = [{"role": "user", "content": "Tell me a long story."}]
            with client.chat.completions.create(
                model="lmi", messages=messages, max_tokens=400, stream=True, extra_body={"ignore_eos": True}
            ) as chunks:
                for _ in chunks:
                    now = time.monotonic()
                    watch.gaps.append(now - last)
                    last = now
                    if over.is_set():
                        break

    def ping() -> None:
        while not over.is_set():
            began = time.monotonic()
            assert server.request("GET", "/ping")[0] == 200
            watch.pings.append(time.monotonic() - began)
            time.sleep(0.1)

    threads = [threading.Thread(target=work) for work in (stream, ping)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        over.set()
        for thread in threads:
            thread.join()


def timed(server: Server, body: dict[str, Any]) -> tuple[int, Any, float]:
    began = time.monotonic()
    status, _, data = server.post(body)
    return status, json.loads(data), time.monotonic() - began


def test_what_cannot_be_had_is_refused_and_harms_nobody(server: Server) -> None:
    assert server.whole(chat(guided_regex="warm", max_tokens=8))
    with neighbours(server) as watch:
        time.sleep(1.5)
        alone = sorted(watch.gaps)
        watch.gaps.clear()
        tried: dict[str, float] = {}
        for name, fields in REFUSED.items():
            status, answer, seconds = timed(server, chat(**fields))
            assert status == 400, (name, answer)
            print(f"{name}: {seconds:.2f} s, {answer['error']['message']}")
            assert next(iter(fields)) in answer["error"]["param"], name
            tried[name] = seconds
        for name, fields in REFUSED.items():
            assert timed(server, chat(**fields))[2] < max(0.5, tried[name] / 2), f"{name}: the verdict was not kept"
        under = sorted(watch.gaps)
        watch.gaps.clear()
        for name, fields in SERVED.items():
            status, answer, seconds = timed(server, chat(**fields, max_tokens=8))
            print(f"{name}: {seconds:.2f} s")
            assert status == 200, (name, answer)
    for word, gaps in (("alone", alone), ("under bombs", under), ("beside the heavy ones", sorted(watch.gaps))):
        print(f"gaps {word}: median {gaps[len(gaps) // 2] * 1000:.0f} ms, longest {gaps[-1] * 1000:.0f} ms")
    pings = sorted(watch.pings)
    print(f"pings: median {pings[len(pings) // 2] * 1000:.0f} ms, longest {pings[-1] * 1000:.0f} ms")
    assert pings[-1] < 1
    assert under[len(under) // 2] < 3 * alone[len(alone) // 2]
    assert under[-1] < 1
    assert json.loads(said(server, response_format=FORMAT))


def test_many_new_guides_at_once(server: Server) -> None:
    """Each has its own verdict, whoever goes away while waiting for one."""
    answers: list[tuple[str, str]] = []

    def ask(number: int) -> None:
        word = f"word{number}"
        answers.append((word, server.whole(chat(guided_choice=[word]))["choices"][0]["message"]["content"]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12
    assert all(word == text for word, text in answers)


def test_a_judge_that_dies_is_replaced(server: Server) -> None:
    def judges() -> list[int]:
        return [pid for pid in server.children() if b"trial_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    assert server.whole(chat(guided_choice=["before"]))["choices"][0]["message"]["content"] == "before"
    (judge,) = judges()
    os.kill(judge, signal.SIGKILL)
    time.sleep(0.5)
    assert server.whole(chat(guided_choice=["after"]))["choices"][0]["message"]["content"] == "after"
    assert judges() not in ([], [judge])
