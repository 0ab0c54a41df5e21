"""vLLM's outputs as events (engine/vllm/request.py), without vLLM: what happens when one cannot be rendered."""

import asyncio
from types import SimpleNamespace
from typing import Any

from lmi_chat.engine.vllm.request import Outputs
from lmi_chat.errors import Bug
from lmi_chat.job import Delta, Event, Job


def output(text: str) -> Any:
    part = SimpleNamespace(index=0, text=text, token_ids=[7], logprobs=None, finish_reason=None, stop_reason=None)
    return SimpleNamespace(outputs=[part], prompt_logprobs=None, prompt_token_ids=[1], finished=False, metrics=None)


async def test_a_failure_to_render_takes_the_request_off_the_engine() -> None:
    """Before its slot is free again: what runs on without a reader would cost everybody."""
    events: list[Event] = []
    aborted: list[str] = []

    def sink(event: Event) -> None:
        if isinstance(event, Delta):
            raise ZeroDivisionError
        events.append(event)

    async def abort() -> None:
        await asyncio.sleep(0)
        aborted.append("j")

    run = Outputs(Job(id="j", prompt_ids=[1], prompt_text="p"), sink, SimpleNamespace())  # type: ignore[arg-type]
    run.begin(SimpleNamespace(output=None), abort)
    run.put(output("a"))
    run.put(output("b"))
    assert [type(event) for event in events] == [Bug]
    await run.close()
    assert aborted == ["j"]


async def test_a_job_is_taken_off_the_engine_once() -> None:
    aborted: list[str] = []

    async def abort() -> None:
        aborted.append("j")

    run = Outputs(Job(id="j", prompt_ids=[1], prompt_text="p"), [].append, SimpleNamespace())  # type: ignore[arg-type]
    run.begin(SimpleNamespace(output=None), abort)
    await run.close()
    await run.close()
    assert aborted == ["j"]
