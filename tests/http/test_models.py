"""The multi-model contract's routes with one model; scripted engine, real HTTP."""

from typing import Any

import pytest

from tests.http.test_app import CHAT, post, send
from tests.support.scripted import serving

ONE = {"modelName": "tiny", "modelUrl": "tiny"}


def test_the_loaded_model_is_listed_in_pages_and_described() -> None:
    with serving() as service:
        asked = [
            send(service, b"", path=path, method="GET")
            for path in ("/models", "/models?limit=1", "/models?next_page_token=:tiny", "/models/tiny", "/models/lmi")
        ]
        assert [(status, answer) for status, _, answer in asked] == [
            (200, {"models": [ONE]}),
            (200, {"models": [ONE]}),
            (200, {"models": []}),
            (200, ONE),
            (200, ONE),
        ]
        assert send(service, b"", path="/models?limit=0", method="GET")[0] == 400
        assert send(service, b"", path="/models/other", method="GET")[0] == 404


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model_name": "tiny", "url": "/opt/ml/models/tiny"}, 409, "is loaded already"),
        ({"model_name": "other", "url": "/opt/ml/models/other"}, 507, "room for one model, tiny"),
        ({"model_name": "other"}, 400, "url must be"),
        ({"model_name": 7, "url": "a"}, 400, "model_name must be"),
        ([], 400, "object"),
    ],
)
def test_a_second_model_has_no_room(body: object, status: int, says: str) -> None:
    with serving() as service:
        found, _, answer = post(service, body, path="/models")
        assert (found, says in answer["error"]["message"]) == (status, True)


def test_the_only_model_stays() -> None:
    with serving() as service:
        asked: list[Any] = [send(service, b"", path=f"/models/{name}", method="DELETE") for name in ("tiny", "other")]
        assert [status for status, _, _ in asked] == [409, 404]
        assert "cannot be unloaded" in asked[0][2]["error"]["message"]
        assert post(service, CHAT, path="/models/tiny/invoke")[0] == 200
        assert post(service, CHAT, path="/models/other/invoke")[0] == 404


def test_before_the_model_is_there_all_are_503() -> None:
    with serving(is_open=False) as service:
        for path, method in (("/models", "GET"), ("/models/tiny", "GET"), ("/models", "POST"), ("/models/a", "DELETE")):
            assert send(service, b"{}", path=path, method=method)[0] == 503


def test_a_name_may_have_slashes() -> None:
    own: Any = {"model": "org/name", "names": frozenset({"org/name"}), "aliases": ()}
    with serving(**own) as service:
        asked: list[Any] = [
            send(service, b"", path=path, method=method)
            for method in ("GET", "DELETE")
            for path in ("/models/org/name", "/models/org%2Fname", "/models/org/other")
        ]
        assert [status for status, _, _ in asked] == [200, 200, 404, 409, 409, 404]
        assert asked[0][2] == {"modelName": "org/name", "modelUrl": "org/name"}
        for path in ("/models/org/name/invoke", "/predictions/org/name"):
            assert post(service, CHAT, path=path)[0] == 200
            assert post(service, CHAT, path=path.replace("name", "other"))[0] == 404
        assert send(service, b"", path="/models/org/name/adapters", method="GET")[2] == {"adapters": []}
