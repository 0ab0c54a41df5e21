"""The benchmarks' stand-in for EngineCore (bench/fake_engine.py): vLLM reads it as the real one, and so do we."""

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bench import core_bytes, fake_engine, traffic
from tests.real.conftest import Server

IDS = [300, 301, 302, 2, 303]


def core(**params: object) -> tuple[fake_engine.Core, bytes]:
    """A core that has been asked for one answer to IDS, in vLLM's own bytes."""
    from vllm.sampling_params import SamplingParams as VllmSamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.serial_utils import MsgpackEncoder

    sampling = VllmSamplingParams(**params)
    sampling.update_from_generation_config({}, 2)
    request = EngineCoreRequest("0_r-1", IDS, None, sampling, None, 0.0, None, None, None)
    one = fake_engine.Core()
    (data,) = MsgpackEncoder().encode(request)
    assert one.take(fake_engine.ADD, bytes(data)) is None
    return one, bytes(data)


def steps(one: fake_engine.Core) -> Iterator[Any]:
    """Each step's outputs as vLLM decodes them; the bytes are those that vLLM makes of them."""
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    while data := one.step():
        found = MsgpackDecoder(EngineCoreOutputs).decode([data])
        (again,) = MsgpackEncoder().encode(found)
        assert bytes(again) == data.replace(b"\xdc\x00\x01", b"\x91", 1)  # one output: a shorter head is enough
        yield found


def tokens(outputs: list[Any]) -> list[int]:
    return [token for each in outputs for token in each.outputs[0].new_token_ids]


def test_an_answer_is_the_prompt_again_up_to_max_tokens() -> None:
    found = list(steps(core(max_tokens=7, ignore_eos=True)[0]))
    assert tokens(found) == [*IDS, 300, 301]
    first, *_, last = (each.outputs[0] for each in found)
    assert [event.type.name for event in first.events] == ["QUEUED", "SCHEDULED"]
    assert first.prefill_stats.num_prompt_tokens == first.prefill_stats.num_computed_tokens == len(IDS)
    assert (str(last.finish_reason), last.stop_reason) == ("length", None)
    assert [each.scheduler_stats.num_running_reqs for each in found] == [1] * 6 + [0]
    assert all(each.outputs[0].finish_reason is None for each in found[:-1])


@pytest.mark.parametrize(
    ("params", "count", "reason", "stop"),
    [
        ({}, 4, "stop", None),
        ({"min_tokens": 5}, 9, "stop", None),
        ({"stop_token_ids": [301]}, 2, "stop", 301),
        ({"ignore_eos": True, "stop_token_ids": [303]}, 5, "stop", 303),
        ({"ignore_eos": True, "max_tokens": 1}, 1, "length", None),
    ],
)
def test_it_ends_where_the_real_one_does(params: dict[str, object], count: int, reason: str, stop: int | None) -> None:
    found = list(steps(core(**{"max_tokens": 20, **params})[0]))
    last = found[-1].outputs[0]
    assert (len(tokens(found)), str(last.finish_reason), last.stop_reason) == (count, reason, stop)


@pytest.mark.parametrize("asked", [0, 1, 20])
def test_log_probabilities_have_the_sampled_token_first_and_then_the_likeliest(asked: int) -> None:
    found = list(steps(core(max_tokens=6, ignore_eos=True, logprobs=asked)[0]))
    for output in (each.outputs[0] for each in found):
        ids, values, (rank,), _ = output.new_logprobs
        assert ids.shape == values.shape == (1, asked + 1)
        assert ids[0, 0] == output.new_token_ids[0]
        assert len(set(ids[0, 1:])) == asked
        assert all(a > b for a, b in itertools.pairwise(values[0, 1:]))
        if rank <= asked:
            assert (ids[0, rank], values[0, rank]) == (ids[0, 0], values[0, 0])


def test_an_aborted_request_gets_no_more() -> None:
    one, _ = core(max_tokens=9)
    assert one.step()
    one.take(fake_engine.ABORT, core_bytes.encode(["0_r-1"]))
    assert one.step() is None


def test_a_call_is_answered() -> None:
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.serial_utils import MsgpackDecoder

    one = fake_engine.Core()
    for method, failure in (("get_supported_tasks", None), ("fly", "the fake engine has no fly")):
        reply = one.take(fake_engine.UTILITY, core_bytes.encode((0, 7, method, ())))
        found = MsgpackDecoder(EngineCoreOutputs).decode([reply]).utility_output
        assert (found.call_id, found.failure_message) == (7, failure)
        assert failure or found.result.result == ["generate"]


def test_its_first_message_is_read() -> None:
    import msgspec
    from vllm.v1.engine import EngineCoreReadyResponse

    found = msgspec.msgpack.decode(core_bytes.ready(), type=EngineCoreReadyResponse)
    assert (found.max_model_len, found.world_size, found.dp_stats_address) == (core_bytes.CONTEXT, 1, None)


def test_the_server_answers_with_the_prompt(attached: Server, tokenizer: Any) -> None:
    def ask(place: int) -> tuple[str, str]:
        text, count = traffic.prompt(place)[:200], 40 + 7 * place
        body: dict[str, object] = {"inputs": text, "parameters": {"max_new_tokens": count, "ignore_eos_token": True}}
        ids = tokenizer.encode(text)
        expected = tokenizer.decode((ids * count)[:count], skip_special_tokens=True).rstrip("\ufffd ")
        if place % 2:
            return expected, attached.lines(body)[-1]["generated_text"].rstrip("\ufffd ")
        return expected, attached.whole(body)["generated_text"].rstrip("\ufffd ")

    with ThreadPoolExecutor(20) as pool:
        for expected, found in pool.map(ask, range(20)):
            assert found == expected
    assert attached.wait_until_idle(5)


def test_sequences_of_one_request_are_requests_of_their_own(attached: Server) -> None:
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 10,
        "ignore_eos": True,
        "n": 3,
        "logprobs": True,
    }
    choices = attached.whole(body)["choices"]
    assert [json.dumps(each["message"]) for each in choices] == [json.dumps(choices[0]["message"])] * 3
    assert all(len(each["logprobs"]["content"]) == 10 for each in choices)
