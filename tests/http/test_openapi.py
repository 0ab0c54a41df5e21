"""The OpenAPI document: valid, complete, and true to what is checked."""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jsonschema_rs
import openapi_spec_validator
import pytest
from starlette.routing import Route, WebSocketRoute

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.body import USAGE, ConstraintFields
from lmi_chat.dialects.chat import messages
from lmi_chat.dialects.chat.body import ChatBody, SessionBody
from lmi_chat.dialects.completion.body import CompletionBody
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.standard.body import Parameters, StandardBody
from lmi_chat.errors import Error
from lmi_chat.http import app
from lmi_chat.http.openapi import document
from lmi_chat.http.state import AppState
from lmi_chat.limits import Limits
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from tests.http.test_app import send
from tests.support.bounds import Bounds, bounds
from tests.support.cases import UNSAID
from tests.support.fakes import LABELS, SPACE, deployment, parse
from tests.support.scripted import serving
from tests.support.speech import SPEECH

pytestmark = pytest.mark.processes

TURN = {"role": "user", "content": "a"}
CHAT = {"messages": [TURN]}
LIMITS = Limits(
    max_schema_bytes=300,
    max_regex_bytes=20,
    max_grammar_bytes=40,
    max_choices=5,
    max_choice_bytes=6,
    max_messages=9,
    max_tools=3,
)
DESKS: dict[str, dict[str, Any]] = {
    "usual": {},
    "strict": {"is_strict": True, "template_variables": frozenset({"tone"})},
    "streaming": {"streams_by_default": True},
    "calling": {"chat_template": "{tools}{turns}", "tool_parser": "any", "reasoning_parser": "any", "is_strict": True},
    "not by itself": {"chat_template": "{tools}{turns}", "tool_parser": "any", "calls_tools": False},
}
NAMES = {"chat": "ChatRequest", "standard": "StandardRequest", "completion": "CompletionRequest"}
LEAST: dict[str, dict[str, Any]] = {"chat": CHAT, "standard": {"inputs": "a"}, "completion": {"prompt": "a"}}
FIELDS: dict[str, Mapping[str, Json]] = {
    dialect: deployment().checkers[body].properties
    for dialect, body in (("chat", ChatBody), ("standard", Parameters), ("completion", CompletionBody))
}

VALID: list[tuple[str, dict[str, Any]]] = [
    ("chat", {**CHAT, "temperature": 2, "stop": ["a"], "n": 16}),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "logit_bias": {"1": 5}}),
    ("chat", {**CHAT, "metadata": {"k" * 64: "v" * 512}, "service_tier": "flex"}),
    ("chat", {**CHAT, "logprobs": True, "top_logprobs": 20}),
    ("chat", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    ("chat", {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}}),
    ("chat", {**CHAT, "structured_outputs": {"choice": ["a", "b"], "json": None}}),
    ("chat", {**CHAT, "tools": [], "functions": None, "reasoning_effort": None}),
    ("standard", {"inputs": ["a", "b"], "parameters": {"max_new_tokens": 1, "top_k": -1, "details": True}}),
    ("standard", {"inputs": "a", "parameters": None}),
    ("standard", {"inputs": [TURN]}),
    ("standard", {"inputs": [[TURN, TURN], "a"]}),
    ("chat", {**CHAT, "chat_template_kwargs": {"enable_thinking": False}}),
    ("standard", {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "[ab]"}}}),
    ("standard", {"inputs": "a", "stream": False, "parameters": {"stream": True, "best_of": 2}}),
    ("completion", {"prompt": [[1, 2], "a"], "logprobs": 5, "max_tokens": 0, "echo": True}),
]
INVALID: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"messages": []}),
    ("chat", {"messages": [TURN] * 2049}),
    ("chat", {"messages": [{"role": "wizard", "content": "a"}]}),
    ("chat", {**CHAT, "top_p": -0.1}),
    ("chat", {**CHAT, "max_tokens": 0}),
    ("chat", {**CHAT, "stop": [""]}),
    ("chat", {**CHAT, "logit_bias": {"x": 1}}),
    ("chat", {**CHAT, "logit_bias": {str(token): 1 for token in range(1025)}}),
    ("chat", {**CHAT, "metadata": {"k" * 65: "v"}}),
    ("chat", {**CHAT, "metadata": {"k": 1}}),
    ("chat", {**CHAT, "metadata": {str(place): "v" for place in range(17)}}),
    ("chat", {**CHAT, "service_tier": "gold"}),
    ("chat", {**CHAT, "user": "u" * 513}),
    ("chat", {**CHAT, "modalities": ["audio"]}),
    ("chat", {**CHAT, "allowed_token_ids": []}),
    ("chat", {**CHAT, "stop_token_ids": [257]}),
    ("chat", {**CHAT, "top_logprobs": 1}),
    ("chat", {**CHAT, "stream_options": {}}),
    ("chat", {**CHAT, "stream": True, "best_of": 2}),
    ("chat", {**CHAT, "chat_template": "{{ messages }}"}),
    ("chat", {**CHAT, "chat_template_kwargs": {"tone": "dry"}}),
    ("chat", {**CHAT, "continue_final_message": True, "add_generation_prompt": True}),
    ("chat", {**CHAT, "structured_outputs": {"regex": "a", "choice": ["a"]}}),
    ("chat", {**CHAT, "guided_regex": " "}),
    ("chat", {**CHAT, "guided_choice": []}),
    ("chat", {**CHAT, "response_format": {"type": "xml"}}),
    ("standard", {"inputs": ""}),
    ("standard", {"inputs": [{"role": "wizard", "content": "a"}]}),
    ("standard", {"inputs": [[TURN], []]}),
    ("standard", {"inputs": [TURN, "a"]}),
    ("standard", {"inputs": ["a"] * 65}),
    ("standard", {"inputs": "a", "parameters": {"best_of": 17}}),
    ("standard", {"inputs": "a", "parameters": {"best_of": 2, "num_beams": 2}}),
    ("standard", {"inputs": "a", "parameters": {"best_of": 2}, "stream": True}),
    ("standard", {"inputs": "a", "parameters": {"stop_token_ids": [-1]}}),
    ("standard", {"inputs": "a", "parameters": {"decoder_input_details": True, "stream": True}}),
    ("standard", {"inputs": "a", "parameters": {"grammar": {"type": "json"}}}),
    ("completion", {"prompt": []}),
    ("completion", {"prompt": [1, "a"]}),
    ("completion", {"prompt": "a", "logprobs": 21}),
    ("completion", {"prompt": "a", "max_tokens": 0}),
    ("completion", {"prompt": "a", "suffix": "b"}),
]


@cache
def shown(which: str = "usual", *, has_store: bool = False) -> dict[str, Any]:
    save = (lambda _: None) if has_store else None
    return document(deployment(save=save, **DESKS[which]), has_sessions=True, has_async=True)


@cache
def validator(dialect: str, which: str = "usual") -> Any:
    whole = shown(which)
    name = "ResponsesRequest" if dialect == "responses" else NAMES[dialect]
    schema = {"$ref": f"#/components/schemas/{name}", "components": whole["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


def refusal(body: dict[str, Any], at: Deployment) -> Error | None:
    """What a body meets when it is parsed, or None."""
    try:
        parse(body, at, "1")
    except Error as error:
        return error
    return None


def properties(dialect: str, which: str = "usual") -> dict[str, Any]:
    schema = shown(which)["components"]["schemas"][NAMES[dialect]]["properties"]
    inner: dict[str, Any] = schema["parameters"]["anyOf"][0]["properties"] if dialect == "standard" else schema
    return inner


def body_of(dialect: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {**LEAST[dialect], **({"parameters": fields} if dialect == "standard" else fields)}


def test_the_document_is_valid() -> None:
    openapi_spec_validator.validate(shown("strict", has_store=True))


def test_the_document_is_served_when_the_model_is_there() -> None:
    with serving() as service:
        served = document(deployment(), has_sessions=False, has_async=False)
        assert send(service, b"", path="/openapi.json", method="GET")[2] == json.loads(json.dumps(served))
    with serving(is_open=False) as service:
        assert send(service, b"", path="/openapi.json", method="GET")[0] == 503


def test_each_route_is_a_path() -> None:
    state = AppState(pipeline=Pipeline(PipelineConfig()), health=StartupProgress(), max_body_bytes=1)
    routes = {
        (getattr(route, "path", "").replace(":path", ""), method)
        for route in app.build(state).routes
        if not isinstance(route, WebSocketRoute)  # for which OpenAPI has no word
        for method in getattr(route, "methods", None) or ["POST"]
        if method != "HEAD"
    }
    embeds = document(deployment(pooler=SPACE), has_sessions=True, has_async=True)
    classifies = document(deployment(pooler=LABELS), has_sessions=True, has_async=True)
    hears = document(deployment(speech=SPEECH), has_sessions=True, has_async=True)
    paths = {**shown(has_store=True)["paths"], **embeds["paths"], **classifies["paths"], **hears["paths"]}
    assert routes == {(path, method.upper()) for path, item in paths.items() for method in item}


def test_the_document_of_a_model_that_hears() -> None:
    """It is valid, with a form's fields, and its own answers alone; a model that chats too has both kinds of path."""
    hears = document(deployment(speech=SPEECH), has_sessions=True, has_async=True)
    openapi_spec_validator.validate(hears)
    form = hears["components"]["schemas"]["TranscriptionRequest"]
    assert form["required"] == ["file"]
    assert form["properties"].keys() >= {"language", "temperature", "timestamp_granularities[]"}
    assert "/v1/chat/completions" not in hears["paths"]
    answered = hears["paths"]["/v1/audio/translations"]["post"]["responses"]["200"]["content"]
    assert answered.keys() >= {"application/json", "text/event-stream", "text/plain", "text/vtt"}
    both = document(deployment(speech=replace(SPEECH, is_only=False)), has_sessions=True, has_async=True)
    openapi_spec_validator.validate(both)
    assert both["paths"].keys() > {"/v1/chat/completions", "/v1/audio/transcriptions"}


def test_tgis_paths_are_shown_where_they_are_served() -> None:
    state = AppState(pipeline=Pipeline(PipelineConfig()), health=StartupProgress(), max_body_bytes=1, is_tgi=True)
    own = {route.path for route in app.build(state).routes if isinstance(route, Route)} & {
        *("/", "/generate", "/generate_stream", "/info")
    }
    assert len(own) == 4
    for space in (None, SPACE):
        whole = document(deployment(is_tgi=True, pooler=space), has_sessions=False, has_async=False)
        assert own <= whole["paths"].keys()
        openapi_spec_validator.validate(whole)
    schema = {"$ref": "#/components/schemas/Info", "components": whole["components"]}
    with serving(is_tgi=True) as service:
        info = send(service, b"", path="/info", method="GET")[2]
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(info)
    assert set(info) == set(whole["components"]["schemas"]["Info"]["properties"])


def test_what_is_off_is_not_shown() -> None:
    whole = document(deployment(), has_sessions=False, has_async=False)
    assert "get" not in whole["paths"]["/v1/chat/completions"]
    assert not any("{id}" in path for path in whole["paths"])
    assert "Session" not in json.dumps(whole["paths"]["/invocations"]["post"]["requestBody"])
    assert not any("Session" in parameter["name"] for parameter in whole["paths"]["/invocations"]["post"]["parameters"])


@pytest.mark.parametrize("dialect", FIELDS)
def test_each_known_key_has_a_schema_with_its_meaning(dialect: str) -> None:
    known = set(FIELDS[dialect])
    assert known == set(properties(dialect))
    if dialect == "standard":
        top = shown()["components"]["schemas"]["StandardRequest"]["properties"]
        assert set(top) == set(StandardBody.__annotations__)
    message = shown()["components"]["schemas"]["ChatRequest"]["properties"]["messages"]["items"]["properties"]
    assert set(message) == set(messages.KNOWN)
    assert set(shown()["components"]["schemas"]["SessionRequest"]["properties"]) == set(SessionBody.__annotations__)
    assert not {name for name, schema in properties(dialect).items() if not schema.get("description")}


@pytest.mark.parametrize(("dialect", "body"), VALID)
def test_what_the_document_allows_is_taken(dialect: str, body: dict[str, Any]) -> None:
    validator(dialect).validate(body)
    assert parse(body, deployment(), "1").jobs


@pytest.mark.parametrize(("dialect", "body"), INVALID)
def test_what_the_document_forbids_is_refused(dialect: str, body: dict[str, Any]) -> None:
    assert not validator(dialect).is_valid(body)
    assert refusal(body, deployment()) is not None


def at_the_bounds(field: Bounds, limits: Limits) -> Iterator[Any]:
    """Values on both sides of each bound, and of other types."""
    yield from (None, True, "x", [], {}, 0.5, "1")
    low, high = field.low, field.high
    match field.kind:
        case "integer" | "number":
            numbers = [bound + step for bound in (low, high) if bound is not None for step in (-1, 0, 1)]
            yield from numbers
            yield from [1e-9, -1e-9, 1e300] if field.kind == "number" else []
        case "string":
            yield from ("", "a" * int(high or 0), "a" * (int(high or 0) + 1), "a/b", "\0")
        case "word" | "refused":
            yield from field.words
        case "strings":
            yield from ("a" * limits.max_stop_chars, "a" * (limits.max_stop_chars + 1), [""], [1])
            yield from (["a"] * int(high or 0), ["a"] * (int(high or 0) + 1))
        case "token ids":
            yield from ([0], [256], [257], [-1], ["1"], [True], [1] * int(high or 0), [1] * (int(high or 0) + 1))
        case "bias":
            yield from ({"1": low}, {"1": high}, {"1": -100.5}, {"1": 101}, {"-1": 0}, {"": 0}, {"1.0": 0}, {"1": "2"})
            yield from ({f"{token:09}": 1 for token in range(most)} for most in (256, limits.max_logit_bias + 1))
        case _:
            pass


@pytest.mark.parametrize(
    ("dialect", "name"), [(dialect, name) for dialect, fields in FIELDS.items() for name in fields]
)
def test_schema_and_check_have_the_same_bounds(dialect: str, name: str) -> None:
    """Of each field: what the schema takes, the parser takes (or refuses by a rule between fields), and the reverse."""
    needs = {"logprobs": True} if name == "top_logprobs" else {}
    for value in at_the_bounds(bounds(FIELDS[dialect][name]), Limits()):
        body = body_of(dialect, {name: value, **needs})
        agree(dialect, body, "usual")


def agree(dialect: str, body: dict[str, Any], which: str) -> bool:
    """The schema and the parser say the same about a body, but for the rules that no schema says."""
    is_valid = validator(dialect, which).is_valid(body)
    error = refusal(body, deployment(**DESKS[which]))
    if is_valid and error is not None:
        problems = [problem.text for problem in getattr(error, "problems", [])] or [error.message]
        assert all(any(words in text for words in UNSAID) for text in problems), (body, problems)
    assert is_valid or error is not None, (body, [*validator(dialect, which).iter_errors(body)][:1])
    return error is None


FORMS: list[Any] = [
    *({"type": kind} for kind in ("text", "json_object", "json_schema", "json", "regex", "xml")),
    {"type": "json_schema", "json_schema": {"schema": {}, "name": None, "strict": True}},
    {"type": "json_schema", "json_schema": {"schema": {}, "name": 1}},
    {"type": "json_schema", "json_schema": {"schema": {}, "other": 1}},
    {"type": "text", "other": 1},
    {"type": "regex", "value": "a", "other": 1},
    {"type": "json", "value": {}},
    {"type": "json_object", "value": {"type": "string"}},
    {"type": "json_object", "value": {"name": "x"}},
    {"type": "json_object", "value": {}, "schema": {}},
    {"type": "json_schema", "value": {"schema": {}, "strict": True}, "json_schema": None},
    {"type": "json_schema", "schema": "{}"},
    {"type": "regex", "value": "a"},
    {"type": "regex", "value": ""},
    {"json": {}},
    {"json_object": True},
    {"json_object": False, "regex": None},
    {"regex": "a", "choice": ["a"]},
    {"choice": [""]},
    {"choice": ["\0"]},
]
OPTIONS: list[Any] = [{"include_usage": True}, {"continuous_usage_stats": None}, {"include_usage": 1}, {"other": 1}]
TEXTS = ["", "a", "tiny", " ", "a\0", "auto", "flex", "ab" * 9]
NUMBERS = [0, 1, 2, 3, 5, 6, -1, 0.5, 1.5, -2, 17, 21, 255, 256, 257, 2**31, -(2**63)]
ARRAYS: list[Any] = [[], ["a"], [""], [1], [257], ["a", 1], [[1]], [[]], ["text"], [{"type": "text", "text": "a"}]]
FUNCTIONS: list[Any] = [
    {"name": "f"},
    {"name": "f", "description": None, "parameters": None, "strict": None},
    {"name": "f" * 128, "description": "", "parameters": {"type": "object"}, "strict": True},
    {"name": "a.b:c/d-e_9"},
    {"name": "f" * 129},
    {"name": "two words"},
    {"name": "f\n"},
    {"name": "f", "parameters": []},
    {"name": "f", "parameters": {"$ref": "#/no"}},
    {"name": "f", "description": 1},
    {"name": "f", "strict": "yes"},
    {"name": "f", "other": 1},
    {"name": ""},
    {},
    1,
]
TOOLS: list[Any] = [
    *({"type": "function", "function": function} for function in FUNCTIONS),
    *({"type": "function", "function": {"name": name}, "strict": True} for name in ("f", "g")),
    {"function": {"name": "f"}, "type": None},
    {"type": "custom", "function": {"name": "f"}},
    {"type": "function", "function": {"name": "f"}, "other": 1},
    {"type": "function", "function": {"name": "f"}, "strict": 1},
    {"type": "function"},
    1,
]
NAMED: list[Any] = [TOOLS[0], {"type": "function", "function": {"name": "g"}}, {"type": "function"}, {"type": "tool"}]
CHOICES: list[Any] = [
    *("none", "auto", "required", "any"),
    *NAMED,
    *({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [TOOLS[0]]}} for mode in ("auto", "none")),
    {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": []}},
    {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOLS[0], {"type": "function"}]}},
    {"type": "allowed_tools"},
]
OBJECTS: list[Any] = [{}, {"1": 1}, {"1": 101}, {"x": "y"}, {"tone": "dry"}, {"tone": [1]}]
VALUES = [None, True, False, *TEXTS, *NUMBERS, *ARRAYS, *OBJECTS, *FORMS, *OPTIONS]
MESSAGES: list[dict[str, Any]] = [
    {},
    {"content": None},
    {"content": []},
    {"content": [{"type": "text", "text": ""}, {"type": "refusal", "refusal": "no"}]},
    {"content": [{"type": "text", "text": "a", "other": 1}]},
    {"content": [{"type": "image_url"}]},
    {"content": None, "refusal": "no"},
    {"content": None, "tool_calls": []},
    {"content": None, "reasoning": ""},
    {"content": None, "reasoning": "Hm."},
    {"reasoning_content": "Hm."},
    {"content": None, "reasoning": ["Hm."]},
    {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"content": "a", "tool_calls": [{"function": {"name": "f"}}, {"function": {"name": 1}}]},
    {"content": "a", "tool_calls": [{"type": "custom", "function": {"name": "f"}}]},
    {"content": "a", "tool_calls": [{"function": {"name": "f", "arguments": 1}}]},
    {"content": "a", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
    {"content": "a", "tool_calls": {"function": {}}},
    {"name": 1},
    {"name": "a", "id": "1", "annotations": []},
    {"audio": {}},
    {"other": 1},
]
USUAL: dict[str, list[Any]] = {
    "stream": [True, False, None],
    "logprobs": [True, False, None, 1],
    "use_beam_search": [True, False],
    "echo": [True, False],
    "model": [None, "", "tiny"],
    "n": [1, 2, 3],
    "best_of": [1, 2, 3],
    "num_beams": [1, 2],
    "max_tokens": [0, 1, 9],
    "stream_options": [None, *OPTIONS],
    "messages": [
        [TURN, 1],
        *([TURN, {**TURN, "role": role, **more}] for role in ("tool", "assistant") for more in MESSAGES),
    ],
    "inputs": ["a", ["a", "b"], ["a", ""], [], [TURN], [[TURN], "a"], [[]], [{}], [TURN, "a"]],
    "prompt": ["a", [1, 2], ["a", [1]], [[]], [300]],
    **{name: [None, *FORMS] for name in ("response_format", "structured_outputs", "grammar")},
    "tools": [
        [TOOLS[0]],
        [],
        *([tool] for tool in TOOLS),
        [TOOLS[0], TOOLS[3]],
        [TOOLS[0], TOOLS[0]],
        [TOOLS[0]] * 129,
    ],
    "functions": [[FUNCTIONS[0]], [], *([function] for function in FUNCTIONS), FUNCTIONS[:1] * 2, {}],
    "tool_choice": CHOICES,
    "function_call": ["none", "auto", "required", {"name": "f"}, {"name": "g"}, {"name": 1}, {}],
    "reasoning_effort": [None, "none", "low", "max", "very"],
    "chat_template_kwargs": [{"enable_thinking": True}, {"reasoning_effort": "low"}, {"tone": "dry"}],
}


@cache
def values_of(dialect: str, name: str) -> tuple[list[Any], list[Any]]:
    """Values for one key: those that its own schema takes, and all."""
    values = USUAL.get(name, []) if name in {"model", "messages", "prompt"} else USUAL.get(name, []) * 4 + VALUES
    own = jsonschema_rs.Draft202012Validator(properties(dialect).get(name, {}))
    return [value for value in values if own.is_valid(value)], values


def any_body(dialect: str, chance: random.Random) -> dict[str, Any]:
    """A few keys, most of them right by themselves."""
    names = chance.sample([*FIELDS[dialect], "unknown"], k=chance.choice([1, 2, 2, 3, 3, 4, 5, 7]))
    own = {name: chance.choice(values_of(dialect, name)[chance.random() < 0.1]) for name in names}
    if dialect != "standard":
        return {**LEAST[dialect], **own}
    top = {"stream": chance.choice([True, False, None])} if chance.random() < 0.3 else {}
    inputs = chance.choice(USUAL["inputs"]) if chance.random() < 0.1 else "a"
    return {"inputs": inputs, **top, "parameters": own}


@pytest.mark.parametrize("which", DESKS)
@pytest.mark.parametrize("dialect", NAMES)
def test_schema_and_parser_agree_on_any_body(dialect: str, which: str) -> None:
    chance = random.Random(f"{dialect} {which}")
    right = sum(agree(dialect, any_body(dialect, chance), which) for _ in range(500))
    assert 150 < right < 450


@pytest.mark.parametrize("which", DESKS)
def test_schema_and_parser_agree_on_tools(which: str) -> None:
    names, chance = ("tools", "tool_choice", "functions", "function_call"), random.Random(which)
    taken = 0
    for _ in range(600):
        sent = chance.sample(names, chance.choice([1, 1, 2, 2, 3, 4]))
        own = {name: chance.choice(USUAL[name][: chance.choice([2, 2, 99])]) for name in sent}
        taken += agree("chat", {**CHAT, **own}, which)
    assert 100 < taken < 500


RUN: Json = {"type": "custom", "name": "run"}
INSIDE: list[Any] = [[RUN] * 2, [RUN, 1], [{"type": "mcp"}], {}, None]
RESPONSE_TOOLS: list[Any] = [
    *({"type": "function", **function} for function in FUNCTIONS if isinstance(function, dict)),
    RUN,
    *({**RUN, "format": form} for form in (None, {"type": "text"}, {"type": "grammar", "definition": "a"}, 3)),
    {**RUN, "name": "two words"},
    {**RUN, "other": 1},
    {"type": "custom"},
    {"type": "namespace", "name": "ns", "description": "", "tools": [{"type": "function", "name": "f"}, RUN]},
    *({"type": "namespace", "name": name, "tools": []} for name in ("ns", "", 3)),
    *({"type": "namespace", "name": "ns", "tools": tools} for tools in INSIDE),
    {"type": "namespace", "name": "ns", "tools": [{**RUN, "name": f"f{place}"} for place in range(129)]},
    *(
        {"type": kind}
        for kind in ("web_search", "web_search_preview_2025_03_11", "mcp", "shell", "web_search-x", "x", 1)
    ),
    1,
]
RESPONSE_CHOICES: list[Any] = [
    *("none", "auto", "required", "any"),
    *({"type": kind, "name": name} for kind in ("function", "custom", "mcp") for name in ("f", "run", "ns__run", 3)),
    *(
        {"type": "allowed_tools", "mode": mode, "tools": [{"type": "custom", "name": "run"}]}
        for mode in ("auto", "required", "none")
    ),
    {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]},
    {"type": "web_search"},
]
RESPONSE_ITEMS: list[Any] = [
    {"type": kind, "call_id": call_id, "name": "f", text: "", "namespace": space, **more}
    for kind in ("function_call", "custom_tool_call", "custom_tool_call_output", "mcp_call")
    for text in ("arguments", "input", "output")
    for call_id in ("c", "")
    for space in ("ns", None, "", 1)
    for more in ({}, {"other": 1})
]


@pytest.mark.parametrize("which", DESKS)
def test_schema_and_parser_agree_on_the_tools_of_a_response(which: str) -> None:
    chance = random.Random(which)
    taken = 0
    for _ in range(600):
        several = [RESPONSE_TOOLS[0], RUN, *chance.sample(RESPONSE_TOOLS, chance.choice([1, 1, 2]))]
        body: Json = {"input": "a", "tools": several[chance.choice([0, 1, 2, 2]) :]}
        body |= {"tool_choice": chance.choice(RESPONSE_CHOICES)} if chance.random() < 0.5 else {}
        taken += agree("responses", body, which)
    for item in RESPONSE_ITEMS:
        taken += agree("responses", {"input": [{"role": "user", "content": "a"}, item]}, which)
    assert (60 if which == "calling" else 10) < taken < 400


def test_guides_have_the_limits_of_the_deployment() -> None:
    at = deployment(limits=LIMITS)
    whole = document(at, has_sessions=False, has_async=False)
    schema = {"$ref": "#/components/schemas/ChatRequest", "components": whole["components"]}
    checks = jsonschema_rs.Draft202012Validator(schema)
    cases: list[tuple[str, Any, Any]] = [
        ("guided_regex", "a", "a" * 20),
        ("guided_grammar", "a", "a" * 40),
        ("guided_choice", ["a"], ["a"] * 5),
        ("guided_choice", ["a"], ["a" * 6]),
        ("messages", [TURN], [TURN] * 9),
    ]
    several = [{"type": "function", "function": {"name": f"f{place}"}} for place in range(4)]
    for count, is_right in ((3, True), (4, False)):
        body = {**CHAT, "tools": several[:count], "tool_choice": "none"}
        assert (checks.is_valid(body), refusal(body, at) is None) == (is_right, is_right)
    for name, least, most in cases:
        beyond = ["a" * 7] if most == ["a" * 6] else most + most[:1]
        for value, is_right in ((least, True), (most, True), (least[:0], False), (beyond, False)):
            body = {**CHAT, name: value}
            assert (checks.is_valid(body), refusal(body, at) is None) == (is_right, is_right), body
    assert set(ConstraintFields.__annotations__) <= set(properties("chat"))
    assert set(USAGE) == set(properties("chat")["stream_options"]["anyOf"][0]["properties"])
    assert bounds(properties("chat")["allowed_token_ids"]).low == 1
