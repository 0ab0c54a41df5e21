"""Bytes that are no request, at every door and in every dialect, whole and streamed: a clean refusal, and nothing runs.

The first rows, with their words, are in test_app.py.
"""

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi_chat.storage.completions import Completions
from tests.http.test_app import BAD_BYTES, CHAT, JSON, nested, post, send
from tests.support.cases import closed, message
from tests.support.scripted import Service, serving

pytestmark = pytest.mark.processes

BODIES = {
    "chat": b'{"messages":[{"role":"user","content":"hi"}],%b}',
    "standard": b'{"inputs":"hi","parameters":{%b}}',
    "completion": b'{"prompt":"hi",%b}',
}
ENDPOINT = "/endpoints/e/invocations"
DOORS = {
    "/invocations": tuple(BODIES),
    "/predictions/tiny": (),  # the same door
    "/models/tiny/invoke": (),
    ENDPOINT: (),
    ENDPOINT + "-response-stream": ("chat",),
    "/v1/chat/completions": ("chat",),
    "/v1/completions": ("completion",),
}
OTHERS = {"/v1/chat/completions/chatcmpl-1": b'{"metadata":{},%b}'}
WRONG_FIELDS = {
    "NaN": b'"temperature":NaN',
    "-Infinity": b'"top_p":-Infinity',
    "1e400": b'"presence_penalty":-1e400',
    "1e308": b'"temperature":1e308',
    "2^64": b'"n":18446744073709551616',
    "2^70 as a double": b'"top_k":1180591620717411303424.0',
    "5,000 digits": b'"seed":' + b"9" * 5000,
    "minus 5,000 digits": b'"seed":-' + b"9" * 5000,
    "a million digits": b'"seed":' + b"9" * 1_000_000,
    "4.5 for an integer": b'"top_k":4.5',
    "true for an integer": b'"top_k":true',
    "text for a number": b'"temperature":"1"',
    "yes for a flag": b'"stream":"yes"',
    "a surrogate in a list": b'"stop":["a","\\ud800"]',
    "a surrogate in a key": b'"\\udfff":1',
    "a surrogate in an unknown key": b'"zzz":{"a":["\\udc00"]}',
    "half a pair": b'"stop":["\\ud83dx"]',
    "depth 1e3": b'"zzz":' + nested(1000),
    "depth 5e3 in a schema": b'"response_format":{"type":"json_schema","json_schema":{"schema":'
    + b'{"items":' * 5000
    + b"{}"
    + b"}" * 5000
    + b"}}",
    "depth 2e5 of objects": b'"zzz":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "never closed": b'"zzz":' + b"[" * 200_000,
    "200,000 empty arrays": b'"zzz":[' + b"[]," * 200_000 + b"[]]",
    "12,000 wrong ids": b'"logit_bias":{' + b",".join(b'"k%d":1' % key for key in range(12_000)) + b"}",
    "10,000 stops": b'"stop":[' + b",".join([b'""'] * 10_000) + b"]",
    "a bare control character": b'"stop":["a\nb"]',
    "a bad escape": b'"stop":["\\x41"]',
    "a cut escape": b'"stop":["\\u12"]',
    "a comment": b'"temperature":1 /* warm */',
    "a trailing comma": b'"temperature":1,',
    "a leading zero": b'"top_k":007',
    "a plus": b'"top_k":+1',
    "hexadecimal": b'"top_k":0x10',
    "single quotes": b"'top_k':1",
    "overlong UTF-8": b'"stop":["\xc0\xaf"]',
    "a surrogate in UTF-8": b'"stop":["\xed\xa0\x80"]',
    "cut UTF-8": b'"stop":["\xe2\x82"]',
    "beyond Unicode": b'"stop":["\xf5\x80\x80\x80"]',
}
WHOLE = {name: body for name, body, *_ in BAD_BYTES} | {
    "UTF-16 without a mark": '{"inputs":"a"}'.encode("utf-16-le"),
    "UTF-32": '{"inputs":"a"}'.encode("utf-32"),
    "UTF-7": b"+AHsAIgBp-",
    "NUL": b"\0",
    "NUL after the end": b'{"inputs":"a"}\0',
    "two documents": b'{"inputs":"a"}{"inputs":"b"}',
    "JSON lines": b'{"inputs":"a"}\n{"inputs":"b"}\n',
    "a number": b"1",
    "true": b"true",
    "a form": b"inputs=a&stream=true",
    "a bracket": b"[",
    "200,000 brackets": b"[" * 200_000,
    "spaces": b" " * 100_000,
    "an empty object": b"{}",
    "random": bytes(range(128, 256)) * 40,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    store = Completions(Path(tmp_path_factory.mktemp("store")) / "kept.db")
    with serving(store=store, max_body_bytes=4 * 2**20) as running:
        yield running
    store.close()


def bodies(dialect: str) -> Iterator[tuple[str, bytes]]:
    for name, field in WRONG_FIELDS.items():
        for stream in (b"", b'"stream":true,'):
            text = stream + field if b'"stream"' not in field else field
            yield f"{dialect} with {name}", BODIES[dialect] % text


@pytest.mark.parametrize("path", [*DOORS, *OTHERS])
def test_what_is_no_request_is_refused_at_every_door(service: Service, path: str) -> None:
    rows = [*WHOLE.items(), *(row for dialect in DOORS.get(path, ()) for row in bodies(dialect))]
    rows += [(name, OTHERS[path] % field) for name, field in WRONG_FIELDS.items() if path in OTHERS]
    before = len(service.engine.jobs)
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    with contextlib.closing(connection):
        for name, body in rows:
            connection.request("POST", path, body, JSON)
            answer = connection.getresponse()
            data = answer.read()
            # metadata has a limit of its own, and may be right, of nothing that is stored
            possible = {400, 404, 413} if path in OTHERS else {400, 424}
            assert answer.status in possible, (name, answer.status, data[:300])
            assert len(data) <= 2048, (name, len(data))
            assert answer.getheader("content-type") == "application/json", name
            text = message(json.loads(data))
            assert text, name
            assert text.isprintable(), (name, text)
    assert len(service.engine.jobs) == before
    assert (service.engine.running, service.pipeline.active) == (0, 0)
    assert post(service, CHAT)[2]["choices"][0]["message"]["content"] == "Hello!"


@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions", "/v1/completions"])
def test_nul_and_equal_keys_at_every_door(service: Service, path: str) -> None:
    """U+0000 is text, of equal keys the last counts: in every dialect the same."""
    for dialect in DOORS[path]:
        first, last = BODIES[dialect] % b'"temperature":2,"temperature":0', BODIES[dialect] % b'"stop":["\\u0000"]'
        assert send(service, first, path=path)[0] == 200
        assert service.engine.jobs[-1].sampling.temperature == 0
        assert send(service, last, path=path)[0] == 200
        assert service.engine.jobs[-1].sampling.stop == ("\0",)


def test_closed_schemas_forbid_what_they_do_not_name() -> None:
    """The judge of the other tests is awake."""
    assert closed({"properties": {"a": {"properties": {"b": {}}}}}) == {
        "additionalProperties": False,
        "properties": {"a": {"additionalProperties": False, "properties": {"b": {}}}},
    }
