"""The engine's messages taken off its socket by ourselves: read as vLLM reads them; its figures stay as they were."""

import asyncio
import re
from typing import Any

import numpy as np
import pytest

from bench.fake_engine import Fake
from lmi_chat.engine.vllm.fast_path import messages, output_loop
from lmi_chat.engine.vllm.heartbeat import Heartbeat
from tests.real.conftest import Server


def sent(**fields: Any) -> bytes:
    """One step's message in vLLM's own bytes, with one output."""
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
    from vllm.v1.metrics.stats import SchedulerStats
    from vllm.v1.serial_utils import MsgpackEncoder

    told = SchedulerStats(**fields.pop("told", {}))
    output = EngineCoreOutput("chatcmpl-1-abc", **{"new_token_ids": [7], **fields})
    data, *rest = MsgpackEncoder().encode(EngineCoreOutputs(outputs=[output], scheduler_stats=told, timestamp=3.5))
    assert not rest
    return bytes(data)


def scores(*rows: float) -> Any:
    from vllm.v1.outputs import LogprobsLists

    values = np.array([rows], dtype=np.float32)
    return LogprobsLists(np.arange(len(rows))[None], values, np.array([3]), None)


def test_vllms_structs_are_as_they_are_read() -> None:
    assert messages.incompatibility() == ""


def test_a_struct_with_another_order_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "STATES", messages.STATES | {"something_new"})
    assert messages.incompatibility() == "the scheduler tells otherwise of something_new"


def test_a_message_is_read_as_vllm_reads_it() -> None:
    from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, FinishReason

    step = messages.step(sent(new_logprobs=scores(-0.1234567, -2.0)))
    token = messages.token(step.outputs[0])
    assert (step.timestamp, token.request_id, token.new_token_ids) == (3.5, "chatcmpl-1-abc", [7])
    assert messages.first_logprob(token.new_logprobs) == float(np.float32(-0.1234567))
    assert (token.finish_reason, token.events) == (None, None)
    assert not messages.is_given(step.utility_output)
    assert messages.first_logprob(messages.token(messages.step(sent()).outputs[0]).new_logprobs) is None
    event = EngineCoreEvent.new_event(EngineCoreEventType.PREEMPTED)
    last = messages.token(messages.step(sent(finish_reason=FinishReason.LENGTH, events=[event])).outputs[0])
    assert last.finish_reason == FinishReason.LENGTH
    assert last.events


def test_a_wide_row_of_scores_lies_in_a_frame_of_its_own() -> None:
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.serial_utils import MsgpackEncoder

    data, *frames = MsgpackEncoder().encode(EngineCoreOutput("a", [7], new_logprobs=scores(*[-1.0] * 400)))
    assert frames
    assert messages.first_logprob(messages.token(data).new_logprobs) is None


def test_a_step_that_adds_to_a_figure_is_not_quiet() -> None:
    from vllm.v1.metrics.stats import PrefixCacheStats

    def quiet(**told: Any) -> bool:
        return messages.scheduler_stats(messages.step(sent(told=told)).scheduler_stats).is_quiet

    assert quiet()
    assert quiet(num_running_reqs=64, kv_cache_usage=0.5, step_counter=9)
    assert not quiet(prefix_cache_stats=PrefixCacheStats(requests=1, queries=5))
    assert not quiet(kv_connector_stats={"a": 1})


def test_an_engine_of_another_kind_keeps_vllms_own_loop(caplog: pytest.LogCaptureFixture) -> None:
    class Client:
        pass

    class Other:
        engine_core = Client()

    output_loop.install(Other(), Heartbeat(), {})
    assert "vLLM's own output loop runs" in caplog.text
    assert "the engine's client is Client" in caplog.text


def balancing(finish: Any = None) -> Any:
    """VLLM's client of several engines, as far as it is looked at; `finish` in place of its process_engine_outputs."""
    from vllm.v1.engine.core_client import DPLBAsyncMPClient

    replaced = {"process_engine_outputs": staticmethod(finish)} if finish else {}
    kind: Any = type("Client", (DPLBAsyncMPClient,), replaced)
    client = kind.__new__(kind)
    client.reqs_in_flight, client.engine_inflight = {}, {}
    client.core_engines, client.engine_ranks_managed = [b"\x00\x00"], [0]
    return client


def test_vllm_forgets_requests_as_is_leaned_on() -> None:
    assert output_loop._finish_incompatibility(balancing()) == ""
    assert output_loop._finish_incompatibility(object()) == ""  # of one engine nothing is to be forgotten


async def _waits(_: Any, __: Any) -> None:
    await asyncio.sleep(0)


async def _asks_for_more(_: Any, outputs: Any) -> None:
    outputs.scheduler_stats.current_wave += 1


async def _keeps(_: Any, __: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("finish", "said"),
    [
        (_waits, r"the client's process_engine_outputs asks for more \(it waits\)"),
        (_asks_for_more, r"the client's process_engine_outputs asks for more \(.*scheduler_stats.*\)"),
        (_keeps, "the client keeps its requests otherwise"),
    ],
)
def test_a_client_that_forgets_otherwise_is_a_fault(finish: Any, said: str) -> None:
    assert re.fullmatch(said, output_loop._finish_incompatibility(balancing(finish)))
    lacking = balancing()
    del lacking.engine_inflight
    assert output_loop._finish_incompatibility(lacking) == "engine_inflight is gone"


def figures(server: Server) -> dict[str, float]:
    """VLLM's totals, by name."""
    text = server.request("GET", "/metrics")[2].decode()
    names = (
        *("generation_tokens_total", "iteration_tokens_total_count", "inter_token_latency_seconds_count"),
        *("request_success_total", "time_to_first_token_seconds_count", "prompt_tokens_total"),
    )
    found = {}
    for name in names:
        values = re.findall(rf"^vllm:{name}\{{[^}}]*\}} (\S+)", text, re.MULTILINE)
        assert values, name
        found[name] = sum(float(value) for value in values)
    return found


def test_vllms_figures_count_every_token_and_step(attached: Server, stand_in: Fake) -> None:
    stand_in.pace(2)
    body: dict[str, object] = {
        "messages": [{"role": "user", "content": "one two three four five six seven"}],
        "max_tokens": 300,
        "ignore_eos": True,
    }
    attached.whole({**body, "max_tokens": 3})
    before = figures(attached)
    usage = attached.lines({**body, "stream_options": {"include_usage": True}})[-1]["usage"]
    after = figures(attached)
    stand_in.pace(0)
    grown = {name: after[name] - before[name] for name in after}
    assert grown == {
        "generation_tokens_total": 300,
        "iteration_tokens_total_count": 300,
        "inter_token_latency_seconds_count": 299,
        "request_success_total": 1,
        "time_to_first_token_seconds_count": 1,
        "prompt_tokens_total": usage["prompt_tokens"],
    }
    assert attached.in_engine() == 0
