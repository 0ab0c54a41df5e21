"""Real answers of every dialect, whole and streamed, keep to the schemas that /openapi.json shows, key by key."""

import http.client
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest

from lmi_chat.dialects.sequence import LMI_FINISH
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finish, Finished, Job, Token, TokenLogprob
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.storage.completions import Completions
from lmi_chat.storage.sessions import Sessions
from tests.support.cases import closed
from tests.support.fakes import SPACE
from tests.support.scripted import Scripted, Service, Step, called, embedded, reasoned, said, serving, token

pytestmark = pytest.mark.processes

MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
BREAKS, CALLS, FLAT = 13, 14, Finish("length")


def answered(job: Job) -> Sequence[Step]:
    """As many sequences as are asked for, with all that is asked for; with seed 13 it breaks off, with 14 it calls."""
    if job.sampling.seed == CALLS:
        return said(reasoned("Hm."), "So:", called("weather", {"city": "Zürich"}), called("time", {}))(job)
    tops = (TokenLogprob(120, -0.75, b"x"), TokenLogprob(121, -9999.0, b"y"))
    has_tokens, ranked = job.sampling.logprobs is not None, job.sampling.prompt_logprobs is not None
    tokens = [replace(token("a"), top=tops[: job.sampling.logprobs or 0], rank=1)] if has_tokens else []
    prompt: list[Token | None] = [None, *(replace(token("p"), top=tops, rank=3) for _ in job.prompt_ids[1:])]
    steps: list[Step] = []
    for index in range(job.sampling.n):
        first = tuple(prompt) if ranked and not index else ()
        steps += [Delta(index, "a", [97], tokens, prompt=first), Delta(index, "a", [97], tokens)]
        if job.sampling.seed != BREAKS:
            steps.append(Delta(index, "", [], [], Finish("stop", "end") if index else FLAT))
    if job.sampling.seed == BREAKS:
        return [*steps, Error("it broke")]
    end = Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=2 * job.sampling.n, cached_tokens=1)
    return [*steps, replace(end, prompt_logprobs=tuple(prompt))]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    store = Completions(tmp_path_factory.mktemp("store") / "kept.db")
    policy = PipelineConfig(sessions=Sessions(seconds=600, most=4))
    with serving(Scripted(answered), store=store, policy=policy, tool_parser="scripted") as running:
        yield running
    store.close()


@pytest.fixture(scope="module")
def tgi() -> Iterator[Service]:
    with serving(Scripted(answered), is_tgi=True, finish_words=LMI_FINISH) as running:
        yield running


@pytest.fixture(scope="module")
def embedder() -> Iterator[Service]:
    with serving(Scripted(embedded, pooler=SPACE)) as running:
        yield running


def check(service: Service, path: str, body: Any = None, *, shown: str = "", method: str = "", **headers: str) -> Any:
    """Ask, hold the answer to the document (nothing that it does not name, nothing missing), and give it."""
    method = method or ("GET" if body is None else "POST")
    data = None if body is None else json.dumps(body)
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)) as connection:
        connection.request("GET", "/openapi.json")
        document = json.loads(connection.getresponse().read())
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request(method, path, data, {"content-type": "application/json"} | given)
        answer = connection.getresponse()
        text, kind = answer.read().decode(), (answer.getheader("content-type") or "").partition(";")[0]
    content = document["paths"][shown or path][method.lower()]["responses"][str(answer.status)]["content"][kind]
    components = closed(document["components"]["schemas"])
    schema = closed(content.get("x-item-schema") or content["schema"]) | {"components": {"schemas": components}}
    lines = [text] if kind == "application/json" else [line.removeprefix("data: ") for line in text.split("\n") if line]
    items = [json.loads(line) for line in lines if line != "[DONE]"]
    for item in items:
        jsonschema_rs.Draft202012Validator(schema).validate(item)
    assert items
    return items if "x-item-schema" in content else items[0]


CHAT_FIELDS: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True, "n": 2, "max_tokens": 9}
SCORED: dict[str, Any] = {"prompt": "hi", "logprobs": 2, "n": 2, "return_token_ids": True, "max_tokens": 9}
DETAILS: dict[str, Any] = {"details": True, "top_n_tokens": 2, "max_new_tokens": 9}
STREAM: dict[str, Any] = {"stream": True}
USAGES = ({"include_usage": True}, {"continuous_usage_stats": True, "include_usage": True})
BODIES: list[dict[str, Any]] = [
    MESSAGES,
    MESSAGES | CHAT_FIELDS | {"prompt_logprobs": 1, "service_tier": "default"},
    MESSAGES | STREAM,
    *(MESSAGES | CHAT_FIELDS | STREAM | {"service_tier": "default", "stream_options": usage} for usage in USAGES),
    *(MESSAGES | {"seed": CALLS, **more} for more in ({}, STREAM, {"logprobs": True}, {"logprobs": True, **STREAM})),
    {"inputs": "hi"},
    {"inputs": ["hi", "ho"], "parameters": {"details": True}},
    {"inputs": "hi", "parameters": {**DETAILS, "best_of": 2, "n": 2, "prompt_logprobs": 1, "seed": 1}},
    {"inputs": "hi", "parameters": {**DETAILS, "decoder_input_details": True, "do_sample": True}},
    {"inputs": ["hi", "ho"], "parameters": DETAILS, **STREAM},
    {"prompt": "hi"},
    SCORED | {"prompt_logprobs": 1, "echo": True},
    *({**SCORED, "echo": True, **STREAM, "stream_options": usage} for usage in USAGES),
    *({**one, "seed": BREAKS} for one in (MESSAGES, MESSAGES | STREAM, {"prompt": "a"}, {"prompt": "a"} | STREAM)),
    *({"inputs": "a", "parameters": {"seed": BREAKS, "do_sample": True}, "stream": stream} for stream in (False, True)),
    *({**one, "top_p": 7} for one in (MESSAGES, {"prompt": "a"})),
    {"inputs": "a", "parameters": {"top_p": 7}},
    {"nothing": 1},
]
OWN = {"messages": "/v1/chat/completions", "prompt": "/v1/completions"}


@pytest.mark.parametrize("body", BODIES, ids=lambda body: json.dumps(body)[:60])
@pytest.mark.parametrize("name", ["usual", "tgi"])
def test_an_answer_keeps_to_the_document(request: pytest.FixtureRequest, name: str, body: dict[str, Any]) -> None:
    service: Service = request.getfixturevalue(name)
    check(service, "/invocations", body)
    check(service, "/endpoints/e/invocations", body, shown="/endpoints/{name}/invocations")
    for key, path in OWN.items():
        if key in body:
            check(service, path, body)


@pytest.mark.parametrize("fields", [{}, {"encoding_format": "base64"}, {"dimensions": 0}])
@pytest.mark.parametrize("key", ["input", "inputs"])
def test_vectors_keep_to_the_document(embedder: Service, key: str, fields: dict[str, Any]) -> None:
    check(embedder, "/invocations", {key: ["a", "b"], **fields})


def test_what_was_asked_for_is_in_what_was_checked(usual: Service) -> None:
    """Else the cases above would show nothing of it."""
    chat = check(usual, "/v1/chat/completions", BODIES[1])
    assert chat["choices"][0].keys() >= {"logprobs", "token_ids", "prompt_token_ids", "stop_reason"}
    assert len(chat["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    assert chat["prompt_logprobs"][1]["112"] == {"logprob": -0.5, "rank": 3, "decoded_token": "p"}
    *chunks, last = check(usual, "/v1/chat/completions", BODIES[4])
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)
    assert chunks[0]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    calls = check(usual, "/v1/chat/completions", BODIES[5])["choices"][0]
    assert (calls["message"].keys() >= {"reasoning", "tool_calls"}, calls["finish_reason"]) == (True, "tool_calls")
    assert check(usual, "/v1/chat/completions", BODIES[6])[-1]["choices"][0]["finish_reason"] == "tool_calls"
    details = check(usual, "/invocations", BODIES[11])["details"]
    assert len(details["best_of_sequences"][0]["tokens"]) == len(details["top_tokens"]) == 2
    assert check(usual, "/invocations", BODIES[12])["details"]["prefill"]
    *_, broken = check(
        usual, "/invocations", {"inputs": "a", "parameters": {"seed": BREAKS, "do_sample": True}, "stream": True}
    )
    assert (broken["error"], broken["details"]["finish_reason"]) == ("it broke", "error")


def test_answers_about_sessions_and_stored_completions_keep_to_the_document(usual: Service) -> None:
    result = check(usual, "/invocations", {"requestType": "NEW_SESSION"})["result"]
    check(usual, "/invocations", {"requestType": "CLOSE"}, X_Amzn_SageMaker_Session_Id=result.split()[1])
    own, one = "/v1/chat/completions", "/v1/chat/completions/{id}"
    parts = [{"type": "text", "text": "a"}]
    body = {"messages": [{"role": "user", "content": parts}], "store": True, "metadata": {"a": "b"}}
    place = f"{own}/{check(usual, own, body)['id']}"
    assert check(usual, place, shown=one)["metadata"] == {"a": "b"}
    assert check(usual, place + "/messages", shown=one + "/messages")["data"][0]["content_parts"] == parts
    called = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    tools = [{"role": "assistant", "content": None, "tool_calls": [called], "reasoning": "Hm."}]
    tools += [{"role": "tool", "content": "rain", "tool_call_id": "a"}]
    own_tools = check(usual, own, {"messages": tools, "store": True, "seed": CALLS})["id"]
    listed = check(usual, f"{own}/{own_tools}/messages", shown=one + "/messages")["data"]
    assert [(message.get("tool_calls"), message.get("tool_call_id")) for message in listed] == [
        ([called], None),
        (None, "a"),
    ]
    assert check(usual, own)["data"]
    check(usual, place, {"metadata": None}, shown=one)
    assert check(usual, place, shown=one, method="DELETE")["deleted"]


def test_answers_of_other_routes_keep_to_the_document(usual: Service) -> None:
    for path in ("/ping", "/v1/models", "/execution-parameters", "/adapters"):
        check(usual, path)
    check(usual, "/v1/models/tiny", shown="/v1/models/{model}")
    check(usual, "/v1/models/other", shown="/v1/models/{model}")
    check(usual, "/adapters", {"name": "a", "src": "b"})
