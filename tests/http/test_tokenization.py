"""Token ids of texts and chats, and texts of token ids, in vLLM's shapes; scripted engine, real HTTP."""

from collections.abc import Iterator
from typing import Any

import pytest

from lmi_chat.http import routes
from lmi_chat.limits import Limits
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.storage.sessions import Sessions
from tests.http.test_app import CHAT, JSON, post
from tests.support.fakes import ByteTokenizer
from tests.support.scripted import Service, serving


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


def tokenize(service: Service, body: object) -> tuple[int, Any]:
    status, _, answer = post(service, body, path="/tokenize")
    return status, answer


def detokenize(service: Service, body: object) -> tuple[int, Any]:
    status, _, answer = post(service, body, path="/detokenize")
    return status, answer


def test_a_text_is_its_tokens_and_back(service: Service) -> None:
    text = "Zürich 🙂"
    status, found = tokenize(service, {"prompt": text})
    ids = ByteTokenizer().encode(text)
    assert (status, found) == (200, {"count": len(ids), "max_model_len": 1024, "tokens": ids, "token_strs": None})
    assert detokenize(service, {"tokens": ids}) == (200, {"prompt": text})
    assert detokenize(service, {"tokens": []}) == (200, {"prompt": ""})
    assert tokenize(service, {"prompt": ""})[1]["count"] == 0


def test_the_strings_of_tokens_are_the_vocabularys(service: Service) -> None:
    _, found = tokenize(service, {"prompt": "ab", "return_token_strs": True})
    assert found["token_strs"] == ByteTokenizer().convert_ids_to_tokens(found["tokens"])


def test_a_chats_tokens_are_those_that_it_is_answered_from(service: Service) -> None:
    for body in (CHAT, {**CHAT, "add_generation_prompt": False}, {**CHAT, "add_special_tokens": False}):
        _, found = tokenize(service, body)
        asked = {name: value for name, value in body.items() if name != "add_special_tokens"}
        post(service, asked, path="/v1/chat/completions")
        assert found["tokens"] == list(service.engine.jobs[-1].prompt_ids)


def test_nothing_of_it_goes_to_the_engine(service: Service) -> None:
    before = len(service.engine.jobs)
    assert tokenize(service, CHAT)[0] == tokenize(service, {"prompt": "a"})[0] == 200
    assert len(service.engine.jobs) == before
    assert service.pipeline.active == 0


def test_what_is_longer_than_the_context_is_counted(service: Service) -> None:
    """How much it is too long is what its sender wants to know."""
    assert tokenize(service, {"prompt": "a" * 1100})[1]["count"] == 1100
    for length in (1100, 3000):
        chat: Any = {"messages": [{"role": "user", "content": "a" * length}], "max_tokens": 5}
        _, found = tokenize(service, chat)
        assert (found["count"], found["max_model_len"]) == (length + len("user\n" + "\nassistant\n") + 1, 1024)
        assert post(service, chat, path="/v1/chat/completions")[0] == 400
    with serving(policy=PipelineConfig(limits=Limits(max_input_tokens=50))) as bounded:
        assert tokenize(bounded, {"messages": [{"role": "user", "content": "a" * 100}]})[0] == 200


def test_so_much_is_counted_at_most(service: Service) -> None:
    status, answer = tokenize(service, {"messages": [{"role": "user", "content": "a" * 100_000}]})
    assert status == 400
    assert "messages has 100000 characters" not in answer["error"]["message"]
    assert "messages must have at most 4096 tokens to be counted" in answer["error"]["message"]


@pytest.mark.parametrize("session", ["NEW_SESSION", "0123"])
def test_a_session_does_not_change_what_is_counted(session: str) -> None:
    """No turn begins or ends by it, and the header may stand in all requests of a client."""
    headers = {**JSON, "X-Amzn-SageMaker-Session-Id": session}
    message = {"messages": CHAT["messages"]}
    for policy in (PipelineConfig(), PipelineConfig(sessions=Sessions(seconds=60, most=2))):
        with serving(policy=policy) as service:
            for path, name in (("/v1/messages/count_tokens", "input_tokens"), ("/tokenize", "count")):
                status, told, answer = post(service, message, path=path, headers=headers)
                assert (status, answer[name]) == (200, len("user\nhi" + "\nassistant\n") + 1)
                assert "x-amzn-sagemaker-new-session-id" not in told
            assert post(service, {"tokens": [97]}, path="/detokenize", headers=headers)[2] == {"prompt": "a"}


@pytest.mark.parametrize(
    ("path", "body", "wrong"),
    [
        ("/tokenize", {}, "prompt must be a string, got null; or send messages"),
        ("/tokenize", {"prompt": ["a"]}, "prompt must be a string, got"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens must be true or false, got 1"),
        ("/tokenize", {**CHAT, "add_special_tokens": True}, "add_special_tokens must be false beside messages"),
        ("/tokenize", {**CHAT, "prompt": "a"}, "prompt and messages in one body"),
        ("/tokenize", {"messages": []}, "messages"),
        (
            "/tokenize",
            {"prompt": "a" * 100_000},
            "prompt must have at most 24576 characters to be tokenised, got 100000",
        ),
        ("/detokenize", {}, "tokens must be an array of token ids, got null"),
        ("/detokenize", {"tokens": ["a", 1, -1, 10**9]}, "tokens[0] must be a token id of at least 0"),
        ("/detokenize", {"tokens": [1] * 1025}, "tokens must have at most 1024 token ids"),
        ("/detokenize", {"tokens": [10**9]}, "tokens[0] must be a token id of at least 0 and at most"),
    ],
)
def test_what_is_wrong_is_named(service: Service, path: str, body: object, wrong: str) -> None:
    status, _, answer = post(service, body, path=path)
    assert status == 400
    assert wrong in answer["error"]["message"]


def test_other_models_and_unknown_keys(service: Service) -> None:
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        assert post(service, {**body, "model": "other"}, path=path)[0] == 404
        status, headers, _ = post(service, {**body, "extra": 1}, path=path)
        assert (status, headers["x-lmi-chat-warning"]) == (200, "extra is ignored")


def test_they_are_reached_by_route(service: Service) -> None:
    headers = {**JSON, routes.HEADER: "route=/tokenize"}
    status, _, answer = post(service, {"prompt": "ab"}, headers=headers, path="/invocations")
    assert (status, answer["count"]) == (200, 2)
