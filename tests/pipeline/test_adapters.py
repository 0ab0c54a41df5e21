"""Adapters through the pipeline: a job has its own while it runs, and one adapter's flood leaves room to the others."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.adapters.registry import AdapterRegistry
from lmi_chat.engine import AdapterLimits
from lmi_chat.errors import BadAdapter, NotFound
from lmi_chat.job import Adapter, Job
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline, PipelineConfig
from tests.pipeline.test_pipeline import Kept
from tests.support.fakes import deployment
from tests.support.scripted import Scripted, Step, said

PROMPT = {"inputs": "hi"}


async def fetch(src: str, into: Path) -> None:
    await asyncio.to_thread((into / "weights").write_text, src)


def named(job: Job) -> Sequence[Step]:
    """Answer with the adapter's name; a prompt of "slow" takes its time."""
    name = job.adapter.name if job.adapter else "base"
    return said(name, gap_s=0.02 if "slow" in job.prompt_text else 0.0)(job)


class Deployed:
    """A pipeline with LoRA on a scripted engine."""

    def __init__(self, folder: Path, max_loras: int) -> None:
        limits = AdapterLimits(max_loras=max_loras, max_cpu_loras=max_loras, max_rank=8)
        self.engine = Scripted(named, max_running=3, adapters=limits)
        self.pipeline = Pipeline(PipelineConfig())
        self.registry = AdapterRegistry(self.engine, folder, fetch)

    async def ask(self, body: dict[str, Any], header: str = "") -> Any:
        out = Kept()
        await self.pipeline.answer(InferenceRequest(body=json.dumps(body).encode(), id="t", adapter=header), out)
        return json.loads(out.data)


@pytest.fixture(params=[1, 2])
async def deployed(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Deployed]:
    found = Deployed(tmp_path, request.param)
    for name in ("a", "b", "c"):
        await found.registry.register(name, name)
    await found.pipeline.open(found.engine, deployment(), found.registry)
    yield found
    assert not found.engine.is_dead
    assert found.engine.running == 0
    assert found.engine.widest <= request.param


async def test_each_job_has_the_adapter_that_its_request_names(deployed: Deployed) -> None:
    assert (await deployed.ask(PROMPT))["generated_text"] == "base"
    assert (await deployed.ask(PROMPT, "a"))["generated_text"] == "a"
    found = await deployed.ask({"inputs": ["x", "y", "z", "w"], "adapters": ["b", "", "c", "b"]})
    assert [part["generated_text"] for part in found] == ["b", "base", "c", "b"]
    body = {"model": "c", "prompt": "x", "n": 2, "temperature": 0, "max_tokens": 9}
    assert [choice["text"] for choice in (await deployed.ask(body))["choices"]] == ["c", "c"]


async def test_an_adapter_that_goes_stays_with_who_asked_before(deployed: Deployed) -> None:
    running = asyncio.create_task(deployed.ask({"inputs": "slow"}, "a"))
    while not deployed.engine.running:
        await asyncio.sleep(0)
    await deployed.registry.remove("a")
    with pytest.raises(NotFound):
        await deployed.ask(PROMPT, "a")
    assert (await running)["generated_text"] == "a"
    await deployed.registry.settle()
    assert not {job.adapter.id for job in deployed.engine.jobs if job.adapter} & {*deployed.engine.loaded}


async def test_a_flood_does_not_starve_one_request_of_another_adapter(deployed: Deployed) -> None:
    ended: list[str] = []

    async def ask(name: str, header: str) -> None:
        await deployed.ask({"inputs": "slow"}, header)
        ended.append(name)

    flood = [asyncio.create_task(ask("flood", "a")) for _ in range(60)]
    while deployed.engine.running < 3:
        await asyncio.sleep(0)
    await asyncio.gather(ask("b", "b"), ask("base", ""), ask("c", "c"))
    assert len(ended) < 20, "the others came after 60 that were there before"
    await asyncio.gather(*flood)
    assert len(ended) == 63


async def test_weights_that_do_not_load_refuse_their_request_alone(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = deployed.engine.add_adapter

    async def refuse(adapter: Adapter) -> None:
        if adapter.name == "bad":
            raise BadAdapter("adapter bad does not fit")
        await load(adapter)

    monkeypatch.setattr(deployed.engine, "add_adapter", refuse)
    await deployed.registry.register("bad", "bad", preload=False)
    for body in (PROMPT | {"adapters": "bad"}, {"inputs": ["x", "y"], "adapters": ["a", "bad"]}):
        with pytest.raises(BadAdapter):
            await deployed.ask(body)
    assert (await deployed.ask(PROMPT, "a"))["generated_text"] == "a"
