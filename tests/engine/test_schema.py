"""5,000 cases made from the OpenAPI document, right ones and wrong ones, against the real server."""

import json

import pytest

from tests.cases import Asker
from tests.engine.conftest import Server

PARTS = {
    "/invocations": 800,
    "/v1/chat/completions": 600,
    "/v1/completions": 700,
    "/endpoints/{name}/invocations": 150,
    "/endpoints/{name}/invocations-response-stream": 150,
    "/predictions/{model}": 50,
    "/models/{model}/invoke": 50,
}
CANARY = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 5}}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_5000_cases_keep_to_the_document(server: Server) -> None:
    before = server.whole(CANARY)
    asker = Asker(f"http://127.0.0.1:{server.port}")
    for path, count in PARTS.items():
        for mode in ("positive", "negative"):
            asker.run(path, "POST", mode, count)
            print(path, mode, dict(asker.statuses), f"{len(asker.faults)} faults", flush=True)
    assert asker.statuses.total() >= 5000
    assert not asker.faults, "\n".join(asker.faults[:20])
    assert asker.statuses["positive", 200] > 1000
    assert asker.statuses["negative", 400] > 1000
    assert server.wait_until_idle(2)
    assert json.loads(server.request("GET", "/ping")[2]) == {"status": "ready", "active": 0}
    assert server.whole(CANARY) == before
