"""API keys: who may ask, whose things are whose, what each may use, and what is recorded."""

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openapi_spec_validator
import pytest

from lmi_chat.config import api_keys
from lmi_chat.config.settings import Settings
from lmi_chat.config.sources import BadSetting
from lmi_chat.http.access import ApiKeys
from lmi_chat.job import Finished
from lmi_chat.limits import RateLimits
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.pipeline.rates import Rates
from lmi_chat.server.process import tls
from lmi_chat.storage.completions import Completions
from lmi_chat.storage.sessions import Sessions
from tests.http.test_app import CHAT, post, send
from tests.http.test_async import spooling
from tests.http.test_sagemaker import boto
from tests.support.scripted import Service, serving

pytestmark = pytest.mark.processes

ADA, BOB = "ada-has-a-key", "bob-has-another"
JSON = {"content-type": "application/json"}
LINES: list[dict[str, Any]] = []
INFERENCE = [
    ("/invocations", CHAT),
    ("/invocations", {"inputs": "a"}),
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"prompt": "a"}),
    ("/predictions/tiny", CHAT),
    ("/models/tiny/invoke", CHAT),
    ("/endpoints/e/invocations", CHAT),
    ("/endpoints/e/invocations-response-stream", CHAT),
]
OTHERS = ["/metrics", "/v1/models", "/openapi.json", "/v1/chat/completions", "/execution-parameters", "/adapters"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    store = Completions(tmp_path_factory.mktemp("store") / "kept.db")
    log = RequestLog(lambda line: LINES.append(json.loads(line)))
    policy = PipelineConfig(sessions=Sessions(seconds=60, most=10), request_log=log)
    with serving(policy=policy, store=store, api_keys=ApiKeys({"ada": ADA, "bob": BOB})) as running:
        yield running
    store.close()


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    LINES.clear()
    return LINES


def key(value: str) -> dict[str, str]:
    return {**JSON, "authorization": f"Bearer {value}"}


@pytest.mark.parametrize(("path", "body"), INFERENCE)
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer nobody-has-this"}, {"authorization": f"Basic {ADA}"}, {"x-api-key": ADA + "x"}],
)
def test_without_a_key_nothing_is_answered(
    service: Service, lines: list[dict[str, Any]], path: str, body: object, headers: dict[str, str]
) -> None:
    jobs = len(service.engine.jobs)
    status, told, answer = post(service, body, path=path, headers=JSON | headers)
    assert status == 401
    assert told["www-authenticate"] == "Bearer"
    assert ADA not in json.dumps(answer)
    assert len(service.engine.jobs) == jobs
    assert [(line["path"], line["status"], line["key"]) for line in lines] == [(path, 401, None)]


@pytest.mark.parametrize(("path", "body"), INFERENCE)
@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {ADA}"}, {"authorization": f"bearer  {ADA} "}, {"x-api-key": ADA}]
)
def test_with_a_key_all_is_answered_and_its_name_is_in_the_log(
    service: Service, lines: list[dict[str, Any]], path: str, body: object, headers: dict[str, str]
) -> None:
    assert post(service, body, path=path, headers=JSON | headers)[0] == 200
    end = time.monotonic() + 5
    while not lines:
        assert time.monotonic() < end
        time.sleep(0.002)
    assert lines[0]["key"] == "ada"
    assert ADA not in json.dumps(lines)


@pytest.mark.parametrize("path", OTHERS)
def test_all_but_ping_needs_a_key(service: Service, path: str) -> None:
    assert send(service, b"", {}, path, "GET")[0] == 401
    assert send(service, b"", {"x-api-key": BOB}, path, "GET")[0] == 200
    assert send(service, b"", {}, "/ping", "GET")[0] == 200
    assert send(service, b"", {}, "/live", "GET")[::2] == (200, {"status": "live"})


def test_boto_shows_a_key_in_a_header_of_its_own(service: Service) -> None:
    client = boto(service, retries={"total_max_attempts": 1})
    with pytest.raises(client.exceptions.ClientError):
        client.invoke_endpoint(EndpointName="e", ContentType="application/json", Body=json.dumps(CHAT))
    add = lambda request, **_: request.headers.add_header("x-api-key", ADA)  # noqa: E731
    client.meta.events.register("before-sign.sagemaker-runtime.*", add)
    answer = client.invoke_endpoint(EndpointName="e", ContentType="application/json", Body=json.dumps(CHAT))
    assert json.loads(answer["Body"].read())["choices"][0]["message"]["content"] == "Hello!"
    client.close()


def test_sessions_and_stored_completions_are_their_keys_own(service: Service, lines: list[dict[str, Any]]) -> None:
    _, told, _ = post(service, {"requestType": "NEW_SESSION"}, headers=key(ADA))
    session = {"x-amzn-sagemaker-session-id": told["x-amzn-sagemaker-new-session-id"].partition(";")[0]}
    assert post(service, CHAT, headers=key(BOB) | session)[0] == 400
    assert post(service, {"requestType": "CLOSE"}, headers=key(BOB) | session)[0] == 400
    assert post(service, CHAT, headers=key(ADA) | session)[0] == 200
    made = post(service, {**CHAT, "store": True}, headers=key(ADA))[2]["id"]
    one = f"/v1/chat/completions/{made}"
    for method, path in (("GET", one), ("POST", one), ("DELETE", one), ("GET", f"{one}/messages")):
        assert send(service, b'{"metadata":{}}', key(BOB), path, method)[0] == 404
    assert send(service, b"", key(BOB), "/v1/chat/completions", "GET")[2]["data"] == []
    assert send(service, b"", key(ADA), one, "GET")[2]["id"] == made
    lines.clear()
    assert send(service, b"", key(ADA), one, "DELETE")[0] == 200
    assert {name: lines[0][name] for name in ("peer", "method", "path", "status", "key")} == {
        "peer": "127.0.0.1",
        "method": "DELETE",
        "path": one,
        "status": 200,
        "key": "ada",
    }


def salts(service: Service, *asked: tuple[str, dict[str, Any]]) -> list[str | None]:
    for value, body in asked:
        assert post(service, {**CHAT, **body}, headers=key(value))[0] == 200
    return [job.cache_salt for job in service.engine.jobs[-len(asked) :]]


def test_only_requests_of_one_key_share_cached_prefixes(service: Service) -> None:
    own = {"cache_salt": "x"}
    ada, again, user, bob, salted, others = salts(
        service, (ADA, {}), (ADA, {}), (ADA, {"user": "u"}), (BOB, {}), (ADA, own), (BOB, own)
    )
    assert ada == again == user
    assert len({ada, bob, salted, others, None}) == 5
    assert ADA not in str(ada)


def test_users_may_be_kept_apart_too_or_nobody() -> None:
    keys = ApiKeys({"ada": ADA})
    asked: tuple[tuple[str, dict[str, Any]], ...] = ((ADA, {}), (ADA, {"user": "u"}), (ADA, {"user": "v"}))
    with serving(policy=PipelineConfig(cache_salt_by="user"), api_keys=keys) as service:
        assert len(set(salts(service, *asked))) == 3
    with serving(policy=PipelineConfig(cache_salt_by="none"), api_keys=keys) as service:
        assert salts(service, *asked) == [None] * 3
    with serving() as service:
        assert salts(service, *asked) == [None] * 3, "without keys there is nobody to keep apart"


def test_a_rate_is_each_keys_own() -> None:
    rates = Rates(RateLimits(requests=2))
    with serving(policy=PipelineConfig(rates=rates), api_keys=ApiKeys({"ada": ADA, "bob": BOB})) as service:
        assert [post(service, CHAT, headers=key(ADA))[0] for _ in range(3)] == [200, 200, 429]
        status, told, answer = post(service, {"inputs": "a"}, headers=key(ADA))
        assert status == 429
        assert "requests_per_minute" in answer["error"]["message"]
        assert 1 <= int(told["retry-after"]) <= 30
        assert post(service, CHAT, headers=key(BOB))[0] == 200


def test_tokens_count_when_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0  # of a clock whose sums have no rounding
    monkeypatch.setattr("lmi_chat.pipeline.rates.time.monotonic", lambda: now)
    rates = Rates(RateLimits(tokens=60))
    rates.admit("ada")
    rates.charge("ada", 90)
    with pytest.raises(Exception, match="tokens_per_minute") as refused:
        rates.admit("ada")
    assert refused.value.retry_after_s == 31  # type: ignore[attr-defined]
    now += 31
    rates.admit("ada")
    now += 600
    rates.charge("ada", 59)
    rates.admit("ada")


def test_tokens_of_an_answer_are_charged() -> None:
    rates = Rates(RateLimits(tokens=10))
    with serving(policy=PipelineConfig(rates=rates)) as service:
        assert post(service, CHAT)[0] == 200
        status, _, answer = post(service, CHAT)
        assert (status, answer["error"]["type"], answer["error"]["code"]) == (
            429,
            "rate_limit_error",
            "rate_limit_exceeded",
        )
        assert "all requests together" in answer["error"]["message"]


@pytest.mark.parametrize("shows", [True, False])
def test_cached_tokens_can_be_hidden(*, shows: bool) -> None:
    def script(job: Any) -> Any:
        return [Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=0, cached_tokens=384, reasons=("stop",))]

    with serving(policy=PipelineConfig(shows_cached_tokens=shows)) as service:
        service.engine.script = script
        usage = post(service, CHAT)[2]["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == (384 if shows else 0)


@pytest.mark.parametrize(
    ("raw", "path", "status"),
    [
        (b"GET /ping HTTP/1.1\r\n\r\n", "/ping", 400),
        (b"POST /invocations?key=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "", 400),
        (b"nonsense\r\n\r\n", "", 400),
    ],
)
def test_what_the_transport_refuses_is_recorded(
    service: Service, lines: list[dict[str, Any]], raw: bytes, path: str, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(raw)
        assert client.recv(65536).startswith(b"HTTP/1.1 %d" % status)
    (line,) = lines
    assert (line["peer"], line["status"], line["key"]) == ("127.0.0.1", status, None)
    assert line["path"].startswith(path)
    assert "key=1" not in line["path"]


# Configuration


def test_keys_have_names(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\n\nbob = 12345678\nalone-in-a-line\n".replace(" = ", "="))
    assert api_keys.read("ada=secret-one, secret-two", str(file)) == {
        "ada": "secret-one",
        "key-2": "secret-two",
        "bob": "12345678",
        "key-4": "alone-in-a-line",
    }
    assert api_keys.read("") == {}
    assert api_keys.read("abcd=efgh=ijkl") == {"abcd": "efgh=ijkl"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ada=short", "the key ada must have 8 to 512 characters"),
        ("ada=sécret-key", "visible ASCII"),
        ("ada=secret-key with blanks", "visible ASCII"),
        ("ada=secret-one,ada=secret-two", "given twice"),
        ("ada=secret-one,bob=secret-one", "given twice"),
    ],
)
def test_bad_keys_stop_the_start_and_are_not_shown(text: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words) as stopped:
        api_keys.read(text)
    assert "secret" not in str(stopped.value)


def test_a_file_without_keys_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    with pytest.raises(BadSetting, match="holds no key"):
        api_keys.read("", str(tmp_path / "keys"))
    with pytest.raises(BadSetting, match="cannot be read: No such file"):
        api_keys.read("", str(tmp_path / "none"))


# HTTPS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, private = folder / "cert.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*words, "-keyout", private, "-out", cert], check=True, capture_output=True)
    return cert, private


def test_https_is_served_with_a_certificate(certificate: tuple[Path, Path]) -> None:
    cert, private = certificate
    settings = Settings(ssl_certfile=str(cert), ssl_keyfile=str(private))
    trusting = ssl.create_default_context(cafile=str(cert))
    trusting.check_hostname = False
    with serving(tls=tls(settings)) as service:
        for stream in (False, True):
            body = json.dumps({**CHAT, "stream": stream}).encode()
            with httpx.Client(verify=trusting) as client:
                answer = client.post(f"https://127.0.0.1:{service.port}/invocations", content=body, headers=JSON)
                assert answer.status_code == 200
                assert (b"Hello!" in answer.content) is not stream


def test_https_needs_a_certificate_that_can_be_used(tmp_path: Path) -> None:
    assert tls(Settings()) is None
    with pytest.raises(BadSetting, match="ssl_keyfile needs ssl_certfile"):
        tls(Settings(ssl_keyfile="x"))
    (tmp_path / "cert.pem").write_text("no certificate")
    with (
        pytest.raises(BadSetting, match="HTTPS cannot be served with ssl_certfile"),
        serving(tls=tls(Settings(ssl_certfile=str(tmp_path / "cert.pem")))),
    ):
        pass


LATER = "/endpoints/e/async-invocations"
PAID = [*INFERENCE, (LATER, CHAT), *((path, {"inputs": "a"}) for path in ("/", "/generate", "/generate_stream"))]
FREE = ["/ping", "/health"]


def described(service: Service, path: str, method: str, status: int) -> Any:
    """What /openapi.json says of a status; None: that it does not happen."""
    paths = send(service, b"", path="/openapi.json", method="GET", headers=key(BOB))[2]["paths"]
    path = path.replace("tiny", "{model}").replace("/endpoints/e/", "/endpoints/{name}/")
    return paths[path][method.lower()]["responses"].get(str(status))


def test_refusals_for_keys_and_rates_are_described_where_they_happen(tmp_path: Path) -> None:
    keys = ApiKeys({"ada": ADA, "bob": BOB})
    policy = PipelineConfig(rates=Rates(RateLimits(requests=1)))
    store = Completions(tmp_path / "kept.db")
    spool = spooling(tmp_path / "later")
    with serving(policy=policy, store=store, spool=spool, api_keys=keys, is_tgi=True) as service:
        asked: list[tuple[str, str, object]] = [(path, "POST", body) for path, body in PAID]
        asked += [(path, "GET", None) for path in [*OTHERS, *FREE, "/info"]]
        for path, method, body in asked:
            data = json.dumps(body).encode() if body else b""
            status, told, _ = send(service, data, path=path, method=method, headers=JSON)
            assert status == (200 if path in FREE else 401), path
            shown = described(service, path, method, 401)
            assert (shown is None) == (path in FREE), path
            if shown:
                assert {name.lower() for name in shown["headers"]} >= {"www-authenticate"} <= told.keys()
        assert post(service, CHAT, headers=key(ADA))[0] == 200
        for path, body in PAID:
            status, told, _ = post(service, body, path=path, headers=key(ADA))
            shown = described(service, path, "POST", status)
            if path.startswith("/endpoints") and path != LATER:
                assert (status, described(service, path, "POST", 429)) == (424, None), "SageMaker has it inside"
            else:
                assert status == 429, path
                assert {name.lower() for name in shown["headers"]} >= {"retry-after"} <= told.keys()
        assert described(service, "/v1/chat/completions", "GET", 429) is None
        whole = send(service, b"", path="/openapi.json", method="GET", headers=key(BOB))[2]
        openapi_spec_validator.validate(whole)
        assert [one for each in whole["security"] for one in each] == list(whole["components"]["securitySchemes"])
        assert whole["paths"]["/ping"]["get"]["security"] == []
    store.close()


def test_without_keys_and_rates_no_refusal_for_them_is_described() -> None:
    with serving() as service:
        whole = send(service, b"", path="/openapi.json", method="GET")[2]
    statuses = {status for item in whole["paths"].values() for one in item.values() for status in one["responses"]}
    assert "400" in statuses
    assert not statuses & {"401", "429"}
    assert "security" not in whole
