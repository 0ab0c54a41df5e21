"""The OpenAPI document: valid, and true to what is checked."""

import json
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest

from lmi_chat import dialects
from lmi_chat.bounds import Limits
from lmi_chat.errors import BadField
from lmi_chat.http.openapi import document
from tests.fakes import desk
from tests.http.test_app import send
from tests.scripted import serving

SHOWN = document(Limits())
VALID: list[tuple[str, dict[str, Any]]] = [
    ("ChatRequest", {"messages": [{"role": "user", "content": "a"}], "temperature": 2, "stop": ["a"], "n": 16}),
    (
        "ChatRequest",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "logit_bias": {"1": 5}},
    ),
    (
        "ChatRequest",
        {"messages": [{"role": "user", "content": "a"}], "metadata": {"k" * 64: "v" * 512}, "service_tier": "flex"},
    ),
    ("StandardRequest", {"inputs": ["a", "b"], "parameters": {"max_new_tokens": 1, "top_k": -1, "details": True}}),
    ("StandardRequest", {"inputs": "a", "parameters": None}),
    ("CompletionRequest", {"prompt": [[1, 2], "a"], "logprobs": 5, "max_tokens": 0, "echo": True}),
]
INVALID: list[tuple[str, dict[str, Any]]] = [
    ("ChatRequest", {"messages": []}),
    ("ChatRequest", {"messages": [{"role": "wizard", "content": "a"}]}),
    ("ChatRequest", {"messages": [{"role": "user", "content": "a"}], "top_p": 0}),
    ("ChatRequest", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 0}),
    ("ChatRequest", {"messages": [{"role": "user", "content": "a"}], "stop": [""]}),
    ("ChatRequest", {"messages": [{"role": "user", "content": "a"}], "logit_bias": {"x": 1}}),
    ("ChatRequest", {"messages": [{"role": "user", "content": "a"}], "metadata": {"k" * 65: "v"}}),
    ("ChatRequest", {"messages": [{"role": "user", "content": "a"}], "metadata": {"k": 1}}),
    ("ChatRequest", {"messages": [{"role": "user", "content": "a"}], "service_tier": "gold"}),
    ("ChatRequest", {"messages": [{"role": "user", "content": "a"}], "user": "u" * 513}),
    ("ChatRequest", {"messages": [{"role": "user", "content": "a"}], "modalities": ["audio"]}),
    ("StandardRequest", {"inputs": ""}),
    ("CompletionRequest", {"prompt": []}),
    ("CompletionRequest", {"prompt": "a", "logprobs": 6}),
    ("StandardRequest", {"inputs": "a", "parameters": {"best_of": 17}}),
    ("StandardRequest", {"inputs": "a", "parameters": {"stop_token_ids": [-1]}}),
]


def validator(name: str) -> Any:
    return jsonschema.Draft202012Validator(SHOWN["components"]["schemas"][name])


def test_the_document_is_valid_and_served() -> None:
    openapi_spec_validator.validate(SHOWN)
    with serving() as service:
        assert send(service, b"", path="/openapi.json", method="GET")[2] == json.loads(json.dumps(SHOWN))


@pytest.mark.parametrize(("name", "body"), VALID)
def test_what_the_document_allows_is_taken(name: str, body: dict[str, Any]) -> None:
    validator(name).validate(body)
    assert dialects.parse(body, desk(), "1").jobs


@pytest.mark.parametrize(("name", "body"), INVALID)
def test_what_the_document_forbids_is_refused(name: str, body: dict[str, Any]) -> None:
    assert not validator(name).is_valid(body)
    with pytest.raises(BadField):
        dialects.parse(body, desk(), "1")
