"""Cases made from the OpenAPI document against a real server with a scripted engine; tests/real has the real one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lmi_chat.job import Delta, Job
from lmi_chat.storage.completions import Completions
from tests.http.test_app import CHAT, post
from tests.support.cases import Asker
from tests.support.scripted import Scripted, Service, Step, said, serving

COUNTS = {
    ("/invocations", "POST"): 9,
    ("/v1/chat/completions", "POST"): 7,
    ("/v1/completions", "POST"): 9,
    ("/endpoints/{name}/invocations", "POST"): 5,
    ("/v1/chat/completions", "GET"): 7,
    ("/v1/chat/completions/{id}", "GET"): 2,
    ("/v1/chat/completions/{id}", "POST"): 5,
    ("/v1/chat/completions/{id}", "DELETE"): 2,
    ("/v1/chat/completions/{id}/messages", "GET"): 5,
    ("/v1/models/{model}", "GET"): 3,
    ("/v1/models", "GET"): 2,
    ("/ping", "GET"): 2,
}


def each_said(job: Job) -> list[Step]:
    """As many sequences as are asked for."""
    *steps, done = said("Hello!")(job)
    deltas = [step for step in steps if isinstance(step, Delta)]
    return [replace(delta, index=index) for index in range(job.sampling.n) for delta in deltas] + [done]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    store = Completions(tmp_path / "kept.db")
    with serving(Scripted(each_said), store=store) as running:
        yield running
    store.close()


@pytest.mark.slow
def test_answers_keep_to_the_document(service: Service) -> None:
    asker = Asker(f"http://127.0.0.1:{service.port}")
    for (path, method), count in COUNTS.items():
        asker.run(path, method, "positive", count)
        if asker.can_be_wrong(path, method):
            asker.run(path, method, "negative", count)
    print(asker.statuses)
    assert not asker.faults, "\n".join(asker.faults[:25])
    assert asker.statuses["positive", 200] > 15
    assert asker.statuses["negative", 400] > 20
    assert (service.engine.running, service.pipeline.active) == (0, 0)
    assert post(service, CHAT)[2]["choices"][0]["message"]["content"] == "Hello!"
