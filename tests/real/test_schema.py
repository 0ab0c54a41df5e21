"""5,000 cases made from the OpenAPI document, right ones and wrong ones, against the real server."""

import json
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.real.conftest import Server
from tests.support.cases import ask

PARTS = {
    "/invocations": 800,
    "/v1/chat/completions": 600,
    "/v1/completions": 700,
    "/endpoints/{name}/invocations": 150,
    "/endpoints/{name}/invocations-response-stream": 150,
    "/predictions/{model}": 50,
    "/models/{model}/invoke": 50,
}
ASKERS = 8  # at once, so that the engine batches; each may take 1 GiB for the cases of a large document
SHARES = 10
CANARY = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 5}}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_5000_cases_keep_to_the_document(server: Server) -> None:
    before = server.whole(CANARY)
    url, statuses, faults = f"http://127.0.0.1:{server.port}", Counter[tuple[str, int]](), list[str]()
    with ProcessPoolExecutor(ASKERS, multiprocessing.get_context("spawn")) as askers:
        parts = [
            askers.submit(ask, url, path, mode, count // SHARES, number)
            for path, count in PARTS.items()
            for mode in ("positive", "negative")
            for number in range(SHARES)
        ]
        for part in parts:
            counted, wrong = part.result()
            statuses += counted
            faults += wrong
    print(dict(statuses))
    assert statuses.total() >= 5000
    assert not faults, "\n".join(faults[:20])
    assert statuses["positive", 200] > 1000
    assert statuses["negative", 400] > 1000
    assert server.wait_until_idle(2)
    assert json.loads(server.request("GET", "/ping")[2]) == {"status": "ready", "active": 0}
    assert server.whole(CANARY) == before
