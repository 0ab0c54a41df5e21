"""Fields on the deployment that has chosen otherwise: strict, TGI's shapes, guessing tokens ahead, by priority."""

import json
from typing import Any

import pytest

from tests.real.conftest import Server
from tests.real.test_answers import chat, standard


@pytest.mark.parametrize("field", [{"min_p": 0.1}, {"logit_bias": {"1": 1}}])
def test_what_guessing_ahead_cannot_honour_is_refused(other: Server, field: dict[str, Any]) -> None:
    """The engine itself says so; nothing is passed over in silence."""
    for asked in (chat("Hi", **{"temperature": 1, **field}), standard("Hi", do_sample=True, **field)):
        status, _, data = other.post(asked)
        assert status == 400
        assert b"speculative decoding" in data


def test_the_prompts_logprobs_and_the_words_for_an_end(other: Server) -> None:
    answer = other.whole(chat("What is the capital of France?", prompt_logprobs=1))
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    assert answer["choices"][0]["finish_reason"] == "eos_token"
    [generated] = other.whole({"inputs": "The capital of France is", "parameters": {"prompt_logprobs": 0}})
    assert len(generated["details"]["prompt_logprobs"]) == 5


def test_strict_requests_name_unknown_parameters(other: Server) -> None:
    status, _, data = other.post({"inputs": "Hi", "parameters": {"max_token": 2}})
    assert (status, json.loads(data)["param"]) == (400, "parameters.max_token")
