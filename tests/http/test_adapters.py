"""Adapters over HTTP: the routes for them, and the ways to name one. Their files are real, the engine is not."""

import dataclasses
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import openapi_spec_validator
import pytest

from lmi_chat.adapters.files import FileRules
from lmi_chat.adapters.registry import AdapterRegistry
from lmi_chat.adapters.resolver import AdapterResolver
from lmi_chat.adapters.sources import AdapterSources
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl.formatters import of_adapter
from lmi_chat.engine import AdapterLimits
from lmi_chat.job import Job, PoolingSpec
from lmi_chat.limits import RegistryLimits
from lmi_chat.observability import metrics
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from lmi_chat.storage.sessions import Sessions
from tests.http.test_answers import check
from tests.http.test_app import CHAT, JSON, Reply, post, send
from tests.http.test_sagemaker import boto
from tests.support import pages
from tests.support.adapters import FILES, packed, write
from tests.support.pages import Block
from tests.support.scripted import Scripted, Service, Step, said, serving

pytestmark = pytest.mark.processes

ADAPTER, ALIAS = "X-Amzn-SageMaker-Adapter-Identifier", "X-Amzn-SageMaker-Adapter-Alias"
LINES: list[dict[str, Any]] = []
BOUNDS = AdapterLimits(max_loras=2, max_cpu_loras=8, max_rank=8)


def name_itself(job: Job) -> Sequence[Step]:
    """An answer that says which adapter the job has."""
    return said(job.adapter.name if job.adapter else "base")(job)


def registering(folder: Path, home: str = "", most: int = 8) -> Any:
    def registry(engine: Scripted, pipeline: Pipeline) -> AdapterRegistry:
        limits = RegistryLimits(adapters=most)
        sources = AdapterSources(FileRules(limits=limits))
        find = AdapterResolver(home, missed_s=0).find if home else None
        formatters = pipeline.formatters
        return AdapterRegistry(engine, folder, sources.fetch, resolve=find, limits=limits, formatters=formatters)

    return registry


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources: french and german, each a folder, spanish.tar.gz, and what is none."""
    home = tmp_path_factory.mktemp("sources")
    for name in ("french", "german"):
        write(home / name)
    (home / "spanish.tar.gz").write_bytes(packed(FILES))
    write(home / "none")
    (home / "none" / "adapter_model.safetensors").unlink()
    return home


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = RequestLog(lambda line: LINES.append(json.loads(line)))
    formatters = Formatters(load=of_adapter)
    policy = PipelineConfig(sessions=Sessions(seconds=60, most=10), request_log=log, formatters=formatters)
    engine = Scripted(name_itself, adapters=BOUNDS)
    with serving(engine, policy=policy, adapters=registering(tmp_path_factory.mktemp("own") / "x")) as service:
        yield service


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    """Without adapters, before and after."""
    yield running
    for entry in running.pipeline.adapters.entries():
        assert call(running, "DELETE", f"/adapters/{entry.name}")[0] == 200
    running.do(running.pipeline.adapters.settle())
    assert not running.engine.loaded


def call(service: Service, method: str, path: str, body: object = None, **headers: str) -> Reply:
    data = b"" if body is None else json.dumps(body).encode()
    return send(service, data, JSON | {name.replace("_", "-"): text for name, text in headers.items()}, path, method)


def register(service: Service, home: Path, *names: str, **more: Any) -> None:
    for name in names:
        status, _, answer = call(service, "POST", "/adapters", {"name": name, "src": str(home / name), **more})
        assert (status, answer) == (200, {"status": f"Adapter {name} registered"})


def text_of(answer: Any) -> str:
    if isinstance(answer, list):
        return ",".join(map(text_of, answer))
    if "choices" in answer:
        return ",".join(one["message"]["content"] if "message" in one else one["text"] for one in answer["choices"])
    if "output" in answer:
        return str(answer["output"][0]["content"][0]["text"])
    return str(answer["generated_text"])


# The routes.


@pytest.mark.parametrize("prefix", ["/adapters", "/models/tiny/adapters"])
def test_a_life_as_lmis_clients_have_it(service: Service, home: Path, prefix: str) -> None:
    """Everything in the query, as LMI takes it."""
    src = str(home / "french")
    assert call(service, "POST", f"{prefix}?name=a1&src={src}&pin=True")[::2] == (
        200,
        {"status": "Adapter a1 registered"},
    )
    described = {"name": "a1", "src": src, "preload": True, "pin": True}
    assert call(service, "GET", f"{prefix}/a1")[::2] == (200, [described])
    assert call(service, "GET", f"{prefix}?limit=5&next_page_token=0")[::2] == (200, {"adapters": [described]})
    assert len(service.engine.pinned) == len(service.engine.loaded) == 1
    before = {*service.engine.loaded}
    assert call(service, "POST", f"{prefix}/a1/update?pin=false")[::2] == (200, {"status": "Adapter a1 updated"})
    assert call(service, "GET", f"{prefix}/a1")[2] == [described | {"pin": False}]
    assert call(service, "POST", f"{prefix}/a1/update", {"src": str(home / "german")})[0] == 200
    assert call(service, "GET", f"{prefix}/a1")[2] == [described | {"pin": False, "src": str(home / "german")}]
    service.do(service.pipeline.adapters.settle())
    assert before.isdisjoint(service.engine.loaded), "an update is another version"
    assert call(service, "DELETE", f"{prefix}/a1")[::2] == (200, {"status": "Adapter a1 unregistered"})
    for method, path in (("GET", "/a1"), ("DELETE", "/a1"), ("POST", "/a1/update")):
        status, _, answer = call(service, method, prefix + path)
        assert (status, answer["error"]["message"]) == (404, 'The adapter "a1" was not found')


def test_the_alias_is_the_name_in_answers(service: Service, home: Path) -> None:
    """The hosting standard's header: the platform's name for what the customer calls otherwise."""
    body = {"name": "ic-1-abc", "src": str(home / "french")}
    named = {ALIAS.replace("-", "_"): "mine"}
    assert call(service, "POST", "/adapters", body, **named)[::2] == (200, {"status": "Adapter mine registered"})
    assert call(service, "POST", "/adapters/ic-1-abc/update", **named)[2] == {"status": "Adapter mine updated"}
    assert call(service, "DELETE", "/adapters/ic-1-abc", **named)[2] == {"status": "Adapter mine unregistered"}
    assert "mine" in call(service, "DELETE", "/adapters/ic-1-abc", **named)[2]["error"]["message"]


def test_the_hosting_standards_requests(service: Service, home: Path) -> None:
    """Registration in JSON, use by the header, removal; each of its refusals."""
    for body in ({"name": "a"}, {"src": "x"}, {"name": "", "src": "x"}, {"name": "a", "src": ""}, {}, None):
        assert call(service, "POST", "/adapters", body)[0] == 400
    assert send(service, b"{", path="/adapters")[0] == 400
    register(service, home, "french", preload=True, pin=False)
    status, _, answer = call(service, "POST", "/adapters", {"name": "french", "src": str(home / "french")})
    assert (status, answer["error"]["code"]) == (400, "adapter_exists")
    again = {"name": "french", "src": str(home / "german"), "load_inplace": True}
    assert call(service, "POST", "/adapters", again)[2] == {"status": "Adapter french registered"}
    assert [entry.src for entry in service.pipeline.adapters.entries()] == [str(home / "german")]
    status, _, answer = call(service, "POST", "/adapters", {"name": "b", "src": "/nowhere"})
    assert (status, answer["error"]["param"]) == (404, "src")
    status, _, answer = post(service, CHAT, headers=JSON | {ADAPTER: "french"})
    assert (status, text_of(answer)) == (200, "french")
    assert call(service, "DELETE", "/adapters/french")[0] == 200
    assert post(service, CHAT, headers=JSON | {ADAPTER: "french"})[0] == 404
    assert call(service, "DELETE", "/adapters/french")[0] == 404


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"preload": False, "pin": True}, 400, "bad_field"),
        ({"src": "none"}, 400, "bad_adapter"),
        ({"src": "nowhere"}, 404, "not_found"),
        ({"preload": "perhaps"}, 400, "bad_field"),
        ({"preload": None, "pin": "FALSE", "unknown": 1}, 200, ""),
        ({"src": "spanish.tar.gz"}, 200, ""),
    ],
)
def test_what_is_registered(service: Service, home: Path, body: dict[str, Any], status: int, code: str) -> None:
    given = {"name": "a", **body, "src": str(home / body.get("src", "french"))}
    found, _, answer = call(service, "POST", "/adapters", given)
    assert (found, answer.get("error", {}).get("code", "")) == (status, code)
    assert len(service.pipeline.adapters.entries()) == (status == 200), "what is refused leaves nothing"


def test_a_name_of_the_models_own_is_no_adapters(service: Service, home: Path) -> None:
    for name in ("tiny", "lmi", "tgi", "dummy"):
        status, _, answer = call(service, "POST", "/adapters", {"name": name, "src": str(home / "french")})
        assert (status, answer["error"]["param"]) == (400, "name")


def test_no_room_is_507(service: Service, home: Path) -> None:
    register(service, home, "french", pin=True)
    status, _, answer = call(service, "POST", "/adapters", {"name": "b", "src": str(home / "german"), "pin": True})
    assert (status, answer["error"]["code"]) == (507, "adapters_full")
    assert "of at most 1" in answer["error"]["message"]


def test_pages(service: Service, home: Path) -> None:
    names = ["10", "2", "B", "a", "c.d", "0"]
    for name in names:
        body = {"name": name, "src": str(home / "french"), "preload": False}
        assert call(service, "POST", "/adapters", body)[0] == 200
    for limit in (1, 2, 5, 6, 100):
        found, token = [], "0"
        while token:
            _, _, answer = call(service, "GET", f"/adapters?limit={limit}&next_page_token={token}")
            assert len(answer["adapters"]) <= limit
            found += [each["name"] for each in answer["adapters"]]
            token = answer.get("nextPageToken", "")
        assert found == sorted(names)
    for query in ("limit=0", "limit=-1", "limit=x", "limit=", "next_page_token=x", "next_page_token=5"):
        status, _, answer = call(service, "GET", f"/adapters?{query}")
        assert (status, answer["error"]["param"]) == (400, query.partition("=")[0])
    assert not service.engine.loaded, "none was to be loaded yet"


def test_adapters_are_listed_as_models(service: Service, home: Path) -> None:
    register(service, home, "french")
    cards = {card["id"]: card for card in call(service, "GET", "/v1/models")[2]["data"]}
    assert list(cards) == ["tiny", "lmi", "french"]
    assert (cards["french"]["parent"], cards["french"]["root"]) == ("tiny", str(home / "french"))
    assert "parent" not in cards["tiny"]
    assert call(service, "GET", "/v1/models/french")[2] == cards["french"]
    assert call(service, "GET", "/v1/models/german")[0] == 404


# The ways to name one.

BODIES: list[dict[str, Any]] = [CHAT, {"inputs": "hi"}, {"prompt": "hi"}, {"input": "hi"}]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: next(iter(body)))
def test_every_way_in_every_dialect(service: Service, home: Path, body: dict[str, Any]) -> None:
    register(service, home, "french", "german")
    ways: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({ADAPTER: "french"}, {}),
        ({}, {"adapters": "french"}),
        ({}, {"adapters": ["french"]}),
        ({}, {"model": "french"}),
        ({ADAPTER: "french"}, {"adapters": "french", "model": "french"}),
        ({ADAPTER: "french"}, {"model": "tiny"}),
        ({}, {"adapters": "french", "model": "lmi"}),
    ]
    for headers, more in ways:
        status, told, answer = post(service, body | more, headers=JSON | headers)
        assert (status, text_of(answer)) == (200, "french"), (headers, more)
        assert "x-lmi-chat-warning" not in told
        assert answer.get("model", "french") == "french", "OpenAI's answers say who answered"
    for more in ({}, {"model": "tiny"}, {"adapters": None}, {"adapters": [""]}):
        assert text_of(post(service, body | more)[2]) == "base"


@pytest.mark.parametrize(
    ("headers", "more", "status", "param"),
    [
        ({ADAPTER: "french"}, {"adapters": "german"}, 400, ADAPTER),
        ({ADAPTER: "french"}, {"model": "german"}, 400, ADAPTER),
        ({}, {"adapters": "french", "model": "german"}, 400, "model"),
        ({ADAPTER: "french"}, {"adapters": [""]}, 400, ADAPTER),
        ({ADAPTER: "italian"}, {}, 404, ADAPTER),
        ({}, {"adapters": "italian"}, 404, "adapters"),
        ({}, {"adapters": ["italian"]}, 404, "adapters[0]"),
        ({}, {"model": "italian"}, 404, "model"),
        ({ADAPTER: "../french"}, {}, 404, ADAPTER),
        ({}, {"adapters": ["french", "french"]}, 400, "adapters"),
    ],
)
def test_what_disagrees_or_is_unknown(
    service: Service, home: Path, headers: dict[str, str], more: dict[str, Any], status: int, param: str
) -> None:
    register(service, home, "french", "german")
    before = len(service.engine.jobs)
    for body in BODIES:
        found, _, answer = post(service, body | more, headers=JSON | headers)
        assert found == status
        assert (answer["param"] if "inputs" in body else answer["error"]["param"]) == param
    assert len(service.engine.jobs) == before


def test_tgis_own_way(service: Service, home: Path) -> None:
    register(service, home, "french", "german")
    body = {"inputs": "hi", "parameters": {"adapter_id": "french"}}
    status, told, answer = post(service, body)
    assert (status, text_of(answer), "x-lmi-chat-warning" in told) == (200, "french", False)
    assert text_of(post(service, body | {"adapters": "french"})[2]) == "french"
    assert post(service, body | {"adapters": "german"})[0] == 400
    for wrong, code in (("italian", 404), (3, 400)):
        status, _, answer = post(service, {"inputs": "hi", "parameters": {"adapter_id": wrong}})
        assert (status, answer["param"]) == (code, "parameters.adapter_id")
    for none in ("", "None", "null", None):
        assert text_of(post(service, {"inputs": "hi", "parameters": {"adapter_id": none}})[2]) == "base"


@pytest.mark.parametrize("key", ["inputs", "prompt"])
def test_one_for_each_prompt(service: Service, home: Path, key: str) -> None:
    register(service, home, "french", "german")
    body = {key: ["a", "b", "c"]}
    assert text_of(post(service, body | {"adapters": ["french", "", "german"]})[2]) == "french,base,german"
    assert text_of(post(service, body | {"adapters": "german"})[2]) == "german,german,german"
    assert text_of(post(service, body, headers=JSON | {ADAPTER: "german"})[2]) == "german,german,german"
    for wrong in (["french"], ["french"] * 4, ["french", "french", 3]):
        status, _, answer = post(service, body | {"adapters": wrong})
        assert (status, answer.get("param") or answer["error"]["param"]) == (400, "adapters")
    assert post(service, body | {"adapters": ["french", "italian", ""]})[0] == 404
    streamed = send(service, json.dumps(body | {"adapters": ["french", "", "german"], "stream": True}).encode())[2]
    assert b"404" not in streamed
    assert {job.adapter.name if job.adapter else "" for job in service.engine.jobs[-3:]} == {"french", "", "german"}


def test_messages_and_token_ids_are_one_prompt(service: Service, home: Path) -> None:
    register(service, home, "french")
    for body in ({"inputs": CHAT["messages"] * 3}, {"prompt": [104, 105, 106]}):
        assert text_of(post(service, body | {"adapters": ["french"]})[2]) == "french"


def test_streams_sessions_and_records(service: Service, home: Path) -> None:
    register(service, home, "french")
    data = send(service, json.dumps({**CHAT, "stream": True}).encode(), JSON | {ADAPTER: "french"})[2]
    chunks = [json.loads(line) for line in data.split(b"\n") if line.startswith(b"{")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "french"
    assert {chunk["model"] for chunk in chunks} == {"french"}
    opened = post(service, {"requestType": "NEW_SESSION", "model": "french"}, headers=JSON | {ADAPTER: "french"})
    session = opened[1]["x-amzn-sagemaker-session-id"].partition(";")[0]
    turn = JSON | {"X-Amzn-SageMaker-Session-Id": session}
    assert [text_of(post(service, CHAT, headers=turn | more)[2]) for more in ({ADAPTER: "french"}, {})] == [
        "french",
        "base",
    ]
    lines = b"\n".join(json.dumps(body).encode() for body in ({"inputs": "a", "adapters": "french"}, {"inputs": "b"}))
    answers = send(service, lines, {"content-type": "application/jsonlines"})[2]
    assert [json.loads(line)["generated_text"] for line in answers.splitlines()] == ["french", "base"]


def test_vectors(tmp_path: Path, home: Path) -> None:
    engine = Scripted(pooler=PoolingSpec(dimensions=4), adapters=BOUNDS)
    with serving(engine, adapters=registering(tmp_path / "own")) as service:
        register(service, home, "french")
        status, _, answer = post(service, {"input": ["a", "b"], "adapters": ["french", ""]}, path="/v1/embeddings")
        assert (status, len(answer["data"])) == (200, 2)
        assert [job.adapter is not None for job in engine.jobs[-2:]] == [True, False]


def test_boto3_and_openais_client(service: Service, home: Path) -> None:
    """An adapter inference component: the platform adds the header to what boto3 sends."""
    register(service, home, "french")
    runtime = boto(service)
    events = runtime.meta.events
    events.register(
        "before-sign.sagemaker-runtime.*", lambda request, **_: request.headers.add_header(ADAPTER, "french")
    )
    sent = {"EndpointName": "e", "ContentType": "application/json", "InferenceComponentName": "french"}
    plain = boto(service)
    for component, name in (("french", "french"), ("base-component", "base")):
        answer = plain.invoke_endpoint(Body=json.dumps(CHAT), **sent | {"InferenceComponentName": component})
        assert text_of(json.loads(answer["Body"].read())) == name, "here a component's name does, too"
    answer = runtime.invoke_endpoint(Body=json.dumps(CHAT), **sent)
    assert text_of(json.loads(answer["Body"].read())) == "french"
    stream = runtime.invoke_endpoint_with_response_stream(Body=json.dumps({**CHAT, "stream": True}), **sent)
    lines = b"".join(event["PayloadPart"]["Bytes"] for event in stream["Body"]).splitlines()
    assert "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines) == "french"
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none", max_retries=0)
    messages: Any = CHAT["messages"]
    assert client.chat.completions.create(model="french", messages=messages).choices[0].message.content == "french"
    assert "french" in [model.id for model in client.models.list()]
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="italian", messages=messages)
    assert raised.value.code == "model_not_found"


def test_the_document_tells_of_them(service: Service, home: Path) -> None:
    """OpenAPI's, where LoRA is on: what names an adapter is allowed, and all answers keep to it."""
    register(service, home, "french")
    document = call(service, "GET", "/openapi.json")[2]
    openapi_spec_validator.validate(document)
    chat = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert "maxLength" not in json.dumps(chat["adapters"])
    for body in (CHAT | {"model": "french"}, {"inputs": "a", "adapters": ["french"]}, CHAT | {"adapters": "italian"}):
        check(service, "/invocations", body)
    check(service, "/v1/models", method="GET")
    check(service, "/v1/models/french", shown="/v1/models/{model}", method="GET")
    check(service, "/adapters", method="GET")
    check(service, "/adapters/french/update", {"pin": False}, shown="/adapters/{name}/update")
    check(service, "/adapters", {"name": "french", "src": "/nowhere"})


# Adapters that are found by their names.


def test_unknown_names_are_looked_for_and_the_least_used_goes(tmp_path: Path, home: Path) -> None:
    engine = Scripted(name_itself, adapters=BOUNDS)
    with serving(engine, adapters=registering(tmp_path / "own", str(home), most=2)) as service:
        for name in ("french", "spanish", "french", "german", "spanish"):
            assert text_of(post(service, CHAT | {"model": name})[2]) == name
            assert len(service.pipeline.adapters.entries()) <= 2
        assert [entry.name for entry in service.pipeline.adapters.entries()] == ["german", "spanish"]
        for headers, more, param in (
            ({ADAPTER: "italian"}, {}, ADAPTER),
            ({}, {"adapters": "italian"}, "adapters"),
            ({}, {"model": "italian"}, "model"),
            ({}, {"adapters": "../sources/french"}, "adapters"),
        ):
            status, _, answer = post(service, CHAT | more, headers=JSON | headers)
            assert (status, answer["error"]["param"]) == (404, param)
        assert post(service, CHAT | {"model": "italian"})[2]["error"]["code"] == "model_not_found"
        found = [job.adapter.id for job in engine.jobs if job.adapter]
        assert found[0] == found[2], "it was there already"
        assert len(set(found)) == 4


def test_what_is_found_and_cannot_be_loaded_is_not_fetched_again_and_again(tmp_path: Path, home: Path) -> None:
    def counting(engine: Scripted, pipeline: Pipeline) -> AdapterRegistry:
        registry: AdapterRegistry = registering(tmp_path / "own", str(home))(engine, pipeline)
        fetch = registry._fetch

        async def counted(src: str, into: Path) -> None:
            fetched.append(src)
            await fetch(src, into)

        registry._fetch = counted
        return registry

    fetched: list[str] = []
    with serving(Scripted(adapters=BOUNDS), adapters=counting) as service:
        for _ in range(3):
            status, _, answer = post(service, CHAT | {"adapters": "none"})
            assert (status, answer["error"]["code"]) == (400, "bad_adapter")
            assert "has no weights" in answer["error"]["message"]
        assert fetched == [str(home / "none")]
        assert post(service, CHAT)[0] == 200


def test_many_first_requests_look_once(tmp_path: Path, home: Path) -> None:
    engine = Scripted(name_itself, adapters=BOUNDS, max_running=16)
    with serving(engine, adapters=registering(tmp_path / "own", str(home))) as service:
        answers: list[str] = []
        asking = [
            threading.Thread(target=lambda: answers.append(text_of(post(service, CHAT | {"adapters": "french"})[2])))
            for _ in range(12)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert answers == ["french"] * 12
        assert len({job.adapter.id for job in engine.jobs if job.adapter}) == 1


# An adapter's own code.

CODE = """
from djl_python.input_parser import input_formatter
from djl_python.output_formatter import output_formatter

@input_formatter
def read(body, **_):
    return {"inputs": body["question"], "adapters": body.get("adapters")}

@output_formatter
def write(answer):
    return {"NAME": answer["generated_text"]}
"""


def test_an_adapters_own_formatters(service: Service, tmp_path: Path) -> None:
    """They come and go with it, and each version has its own."""
    for name in ("one", "two"):
        write(tmp_path / name, model_py=CODE.replace("NAME", name).encode())
    register(service, tmp_path, "one", "two")
    asked = {"question": "hi"}
    assert post(service, asked, headers=JSON | {ADAPTER: "one"})[2] == {"one": "one"}
    assert post(service, asked | {"adapters": "two"})[2] == {"two": "two"}
    assert text_of(post(service, CHAT)[2]) == "base", "the model has none"
    assert call(service, "POST", "/adapters/two/update", {"src": str(tmp_path / "one")})[0] == 200
    assert post(service, asked | {"adapters": "two"})[2] == {"one": "two"}
    write(tmp_path / "plain")
    assert call(service, "POST", "/adapters/two/update", {"src": str(tmp_path / "plain")})[0] == 200
    assert text_of(post(service, CHAT | {"adapters": "two"})[2]) == "two"
    assert call(service, "DELETE", "/adapters/one")[0] == 200
    register(service, tmp_path, "plain")
    assert service.pipeline.formatters.adapters == {}


def test_code_that_fails_is_no_registration(service: Service, tmp_path: Path) -> None:
    write(tmp_path / "bad", model_py=b"raise ValueError('secret')")
    status, _, answer = call(service, "POST", "/adapters", {"name": "bad", "src": str(tmp_path / "bad")})
    assert (status, answer["error"]["code"]) == (424, "custom_code_failed")
    assert "secret" not in answer["error"]["message"]
    assert service.pipeline.adapters.entries() == []


def test_a_name_alone_runs_no_code(tmp_path: Path) -> None:
    """What was found by its name only was registered by nobody."""
    write(tmp_path / "home" / "one", model_py=CODE.encode())
    policy = PipelineConfig(formatters=Formatters(load=of_adapter))
    engine = Scripted(name_itself, adapters=BOUNDS)
    with serving(engine, policy=policy, adapters=registering(tmp_path / "own", str(tmp_path / "home"))) as service:
        for _ in range(2):
            assert text_of(post(service, CHAT | {"adapters": "one"})[2]) == "one"


# What is known of them.


def test_the_log_and_the_metrics(service: Service, home: Path) -> None:
    register(service, home, "french", "german")
    LINES.clear()
    post(service, CHAT, headers=JSON | {ADAPTER: "french"})
    post(service, {"inputs": ["a", "b", "c"], "adapters": ["french", "", "german"]})
    post(service, CHAT)
    post(service, CHAT | {"adapters": "italian"})
    lines = [line for line in LINES if line["dialect"]]
    assert [line["adapter"] for line in lines] == ["french", "french,german", None, None]
    text = call(service, "GET", "/metrics")[2].decode()
    assert 'lmi_chat_adapter_requests_total{adapter="french",status="200"}' in text
    assert 'lmi_chat_adapter_completion_tokens_total{adapter="several adapters"}' in text
    assert "lmi_chat_adapters 2.0" in text
    assert "italian" not in text


def test_names_do_not_grow_the_log_without_bound(service: Service, home: Path) -> None:
    names = [letter * 100 for letter in "abcd"]
    for name in names:
        assert call(service, "POST", "/adapters", {"name": name, "src": str(home / "french")})[0] == 200
    LINES.clear()
    assert post(service, {"inputs": ["x"] * 4, "adapters": names})[0] == 200
    (line,) = [line for line in LINES if line["dialect"]]
    assert line["adapter"].startswith("a" * 100 + "," + "b" * 100)
    assert len(line["adapter"]) <= 260


def test_names_do_not_grow_the_metrics_without_bound(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "ADAPTERS_MOST", len(metrics._named))
    body = {"name": "one-too-many", "src": str(home / "french")}
    assert call(service, "POST", "/adapters", body)[0] == 200
    assert post(service, CHAT | {"adapters": "one-too-many"})[0] == 200
    text = call(service, "GET", "/metrics")[2].decode()
    assert 'adapter="other adapters",status="200"' in text
    assert "one-too-many" not in text


@pytest.mark.parametrize("block", [block for block in pages.EXAMPLES if block.mark == pages.LORA], ids=str)
def test_the_pages_examples(
    service: Service, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: Block
) -> None:
    """As they are written; only the port and the sources' folder differ."""
    if block.language == "python":
        register(service, home, "french")
    for name, text in pages.environment(service.port).items():
        monkeypatch.setenv(name, text)
    placed = dataclasses.replace(block, code=block.code.replace("/opt/ml/adapters", str(home)))
    said_here = pages.said_by(placed, service.port, tmp_path).replace(str(home), "/opt/ml/adapters")
    assert said_here == block.shown
