"""What an answer is billed by, as AWS Marketplace reads it from a container's answers."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lmi_chat.pipeline.metering import Unit
from lmi_chat.pipeline.pipeline import PipelineConfig
from tests.http.test_app import CHAT, send
from tests.support.scripted import Scripted, Service, said, serving

pytestmark = pytest.mark.processes

SEVERAL = {"inputs": ["a", "b", "c"], "parameters": {"max_new_tokens": 4}}
LINES = b"\n".join(json.dumps(one).encode() for one in (CHAT, {"foo": 1}, SEVERAL)) + b"\n"


@pytest.fixture(params=["off", "inferences", "tokens"])
def unit(request: pytest.FixtureRequest) -> Unit:
    found: Unit = request.param
    return found


@pytest.fixture
def service(unit: Unit) -> Iterator[Service]:
    with serving(Scripted(said("Hello!")), policy=PipelineConfig(metered_by=unit)) as service:
        yield service


def metered(service: Service, body: Any, headers: dict[str, str] | None = None) -> tuple[int, int | None, Any]:
    """Status, units (None without the header) and answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, told, answer = send(service, data, headers)
    header = told.get("x-amzn-inference-metering")
    if header is None:
        return status, None, answer
    found = json.loads(header)
    assert found.keys() == {"Dimension", "ConsumedUnits"}
    assert found["Dimension"] == "inference.count"
    return status, found["ConsumedUnits"], answer


def test_a_whole_answer(service: Service, unit: Unit) -> None:
    status, units, answer = metered(service, CHAT)
    assert status == 200
    assert units == {"off": None, "inferences": 1, "tokens": answer["usage"]["total_tokens"]}[unit]


def test_several_prompts_are_several_inferences(service: Service, unit: Unit) -> None:
    status, units, _ = metered(service, SEVERAL)
    assert status == 200
    if unit == "tokens":
        assert units == 3 * (len(service.engine.jobs[-1].prompt_ids) + len("Hello!"))
    else:
        assert units == {"off": None, "inferences": 3}[unit]


def test_a_stream_tells_what_is_known_when_it_begins(service: Service, unit: Unit) -> None:
    status, units, _ = metered(service, {**CHAT, "stream": True})
    assert (status, units) == (200, 1 if unit == "inferences" else None)


def test_what_is_refused_is_free(service: Service) -> None:
    status, units, _ = metered(service, {"foo": 1})
    assert (status >= 400, units) == (True, None)


def test_of_several_records_those_count_that_were_answered(service: Service, unit: Unit) -> None:
    alone = sum(metered(service, body)[1] or 0 for body in (CHAT, SEVERAL))
    status, units, _ = metered(service, LINES, {"content-type": "application/jsonlines"})
    assert status == 200
    assert units == (None if unit == "off" else alone)
