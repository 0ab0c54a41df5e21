"""DJL's asynchronous mode from the Python side: what `handle` gives for the Inputs that DJL makes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from djl_python import Input, Output
from lmi_chat import djl
from lmi_chat.adapters.registry import AdapterRegistry
from lmi_chat.adapters.sources import AdapterSources
from lmi_chat.codec.framing import EVENTS
from lmi_chat.config.settings import Settings
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl import handler, output_parts
from lmi_chat.engine import AdapterLimits
from lmi_chat.errors import Bug
from lmi_chat.job import Delta, Finished
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from lmi_chat.server import bootstrap
from lmi_chat.server.children import Processes
from lmi_chat.storage.sessions import Sessions
from tests.pipeline.test_pipeline import breaking
from tests.support.adapters import write
from tests.support.fakes import deployment
from tests.support.media import PNG, data_url, media
from tests.support.scripted import Scripted, called, reasoned, said

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def asked(body: object, **properties: str) -> Input:
    inputs = Input()
    inputs.properties = dict(properties)
    inputs.content.add("data", body if isinstance(body, bytes) else json.dumps(body).encode())
    return inputs


@pytest.fixture
def engine() -> Scripted:
    return Scripted(said("Hello!"))


async def told(
    engine: Scripted,
    monkeypatch: pytest.MonkeyPatch,
    inputs: Input,
    policy: PipelineConfig | None = None,
    **changes: Any,
) -> list[Output]:
    """One request's Outputs: each has one part, only the last one says that it is, and nothing is left running."""
    line = Pipeline(policy or PipelineConfig())
    await line.open(engine, deployment(**changes))
    monkeypatch.setattr(handler, "_lines", [line])
    answer = await djl.handle(inputs)
    assert answer is not None
    outputs = [output async for output in answer]
    assert all(output.content.size() == 1 and output.code == 200 for output in outputs)
    assert [pairs(output)["last"] for output in outputs] == ["False"] * (len(outputs) - 1) + ["True"]
    assert (line.active, engine.running) == (0, 0)
    return outputs


def pairs(output: Output) -> dict[str, str]:
    return output_parts.read(bytes(output.content.value_at(0)))


def body(outputs: list[Output]) -> str:
    return "".join(pairs(output)["data"] for output in outputs)


async def test_a_route_by_its_attribute(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"x-amzn-SageMaker-Custom-Attributes": "route=/v1/chat/completions"}
    events = await told(engine, monkeypatch, asked({**CHAT, "stream": True}, **named))
    assert body(events).endswith("data: [DONE]\n\n")
    unknown = await told(engine, monkeypatch, asked(CHAT, **{"X-Amzn-SageMaker-Custom-Attributes": "route=/nowhere"}))
    assert "the inference routes are /invocations" in pairs(unknown[0])["error"]


async def test_whole_answers(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = await told(engine, monkeypatch, asked(CHAT, **{"Content-Type": "application/json"}))
    assert outputs[0].properties["Content-Type"] == "application/json"
    assert json.loads(body(outputs))["choices"][0]["message"]["content"] == "Hello!"
    outputs = await told(engine, monkeypatch, asked({"inputs": "x"}))
    assert json.loads(body(outputs)) == {"generated_text": "Hello!"}


async def test_records_are_answered_line_by_line(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b'{"inputs":"a"}\n{\n{"prompt":"b"}\n'
    outputs = await told(engine, monkeypatch, asked(lines, **{"Content-Type": "application/x-ndjson"}))
    assert outputs[0].properties["Content-Type"] == "application/jsonlines"
    assert ["error" in json.loads(line) for line in body(outputs).splitlines()] == [False, True, False]
    outputs = await told(engine, monkeypatch, asked({"inputs": "a"}, **{"Content-Type": "application/octet-stream"}))
    assert json.loads(body(outputs)) == {"generated_text": "Hello!"}


async def test_streams_are_a_frame_to_an_output(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = await told(engine, monkeypatch, asked({**CHAT, "stream": True}, ACCEPT="text/event-stream"))
    assert outputs[0].properties["Content-Type"] == EVENTS.content_type
    assert len(outputs) == len("Hello!") + 3
    assert body(outputs).endswith("data: [DONE]\n\n")
    outputs = await told(engine, monkeypatch, asked({"inputs": "x", "stream": True}))
    assert [json.loads(line)["token"]["text"] for line in body(outputs).splitlines()] == list("Hello!")


async def test_a_refusal_has_code_and_a_line_of_text(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (b"{", b'{"inputs":"x","parameters":{"top_p":7}}'):
        outputs = await told(engine, monkeypatch, asked(bad))
        assert len(outputs) == 1
        assert pairs(outputs[0])["code"] == "400"
        assert "\n" not in pairs(outputs[0])["error"]


async def test_an_error_in_a_stream_is_a_frame_and_the_stream_ends(
    engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.script = breaking(Bug("boom"))
    outputs = await told(engine, monkeypatch, asked({"inputs": "x", "stream": True}))
    assert json.loads(body(outputs).splitlines()[-1])["error"] == "boom"


async def test_a_fault_of_ours_never_leaves_the_generator_hanging(
    engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.script = lambda _: [ZeroDivisionError("ours")]
    outputs = await told(engine, monkeypatch, asked(CHAT))
    assert pairs(outputs[0])["code"] == "500"
    assert "ours" not in pairs(outputs[0])["error"]


async def test_the_callers_id_session_and_warnings_are_headers(
    engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = PipelineConfig(sessions=Sessions(seconds=60, most=2))
    headers = {"X-AMZN-SageMaker-Inference-Id": "mine/2 b", "x-amzn-sagemaker-session-id": "NEW_SESSION"}
    outputs = await told(engine, monkeypatch, asked({**CHAT, "temprature": 0}, **headers), sessions)
    properties = {name.lower(): text for name, text in outputs[0].properties.items()}
    assert properties["x-request-id"] == "mine/2 b"
    assert "; Expires=" in properties["x-amzn-sagemaker-new-session-id"]
    assert "temperature" in properties["x-lmi-chat-warning"]
    assert json.loads(body(outputs))["id"].endswith("mine/2 b")


async def test_a_body_that_is_empty_is_a_request_once_loaded(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for inputs in (Input(), asked(b"")):
        assert pairs((await told(engine, monkeypatch, inputs))[0])["code"] == "400"


async def test_no_frame_comes_near_djls_limit(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """DJL drops the connection, and with it every request, at a frame of 20 MiB."""
    text = "é🌟x" * 3_000_000
    engine.script = lambda _: [Delta(0, text, [1], []), Finished(prompt_tokens=1, completion_tokens=1)]
    for stream in (False, True):
        outputs = await told(engine, monkeypatch, asked({**CHAT, "stream": stream}))
        sizes = [len(output.content.value_at(0)) for output in outputs]
        assert max(sizes) < 9 * 1024 * 1024
        assert len([size for size in sizes if size > 1000]) == 3
        assert text in body(outputs)


async def test_formatters_are_djls_properties(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    found = handler.find_formatters({"input_formatter": lambda body, **_: body, "output_formatter": "sse"})
    assert found.read is not None
    assert found.write is None
    formatters = Formatters(read=lambda body, **_: {"inputs": body["question"]}, write=lambda answer: {"said": answer})
    outputs = await told(engine, monkeypatch, asked({"question": "x"}), PipelineConfig(formatters=formatters))
    assert json.loads(body(outputs)) == {"said": {"generated_text": "Hello!"}}


async def test_what_is_not_here_is_never_answered_by_the_base_model(
    engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for header in ("x-amzn-sagemaker-adapter-identifier", "X-Amzn-SageMaker-Target-Model"):
        assert pairs((await told(engine, monkeypatch, asked(CHAT, **{header: "other"})))[0])["code"] == "404"


CHANGES = (djl.register_adapter, djl.update_adapter, djl.unregister_adapter)


async def test_adapters_are_refused_in_djls_way(engine: Scripted) -> None:
    """Before the load, and where LoRA is off."""
    line = Pipeline(PipelineConfig())
    await line.open(engine, deployment())
    for function in CHANGES:
        early = await function(asked(b"", name="a", src="/x"))
        with handler.answered_by(line):
            output = await function(asked(b"", name="a", src="/x"))
        assert output.content.key_at(0) == "data"
        assert (pairs(early)["code"], pairs(output)["code"]) == ("503", "400")
        assert "LoRA is off" in pairs(output)["error"]


async def test_adapters_come_and_go_by_djls_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DJL's properties are texts; its sentences are LMI's. `alias` is the name in them."""
    engine = Scripted(said("Hello!"), adapters=AdapterLimits(max_loras=2, max_cpu_loras=2, max_rank=8))
    line = Pipeline(PipelineConfig())
    registry = AdapterRegistry(engine, tmp_path / "own", AdapterSources().fetch)
    await line.open(engine, deployment(), registry)
    monkeypatch.setattr(handler, "_lines", [line])
    src = str(write(tmp_path / "a"))

    async def sent(function: Any, **properties: str) -> tuple[str, str]:
        found = pairs(await function(asked(b"", **properties)))
        return found["data"], found.get("code", "200")

    assert await sent(djl.register_adapter, name="a", src=src, pin="true") == ("Adapter a registered", "200")
    assert (len(engine.loaded), len(engine.pinned)) == (1, 1)
    answer = await djl.handle(asked(CHAT, **{"X-Amzn-SageMaker-Adapter-Identifier": "a"}))
    assert answer is not None
    assert "Hello!" in body([output async for output in answer])
    assert [job.adapter and job.adapter.name for job in engine.jobs][-1] == "a"
    assert await sent(djl.update_adapter, name="a", alias="mine", pin="false") == ("Adapter mine updated", "200")
    assert [await sent(djl.register_adapter, name="b", src=text) for text in ("/nowhere", "")] == [
        ("", "404"),
        ("", "400"),
    ]
    assert await sent(djl.register_adapter, name="b", src=src, preload="false", pin="true") == ("", "400")
    assert await sent(djl.register_adapter, name="b", src=src, preload="maybe") == ("", "400")
    assert await sent(djl.unregister_adapter, name="a", alias="mine") == ("Adapter mine unregistered", "200")
    for function in CHANGES[1:]:
        assert await sent(function, name="a") == ("", "404")
    await registry.settle()
    assert not engine.loaded


async def test_a_change_that_fails_is_no_exception_to_djl(monkeypatch: pytest.MonkeyPatch, engine: Scripted) -> None:
    monkeypatch.setattr(handler, "_registry", lambda: 1 / 0)
    assert pairs(await djl.unregister_adapter(asked(b"", name="a")))["code"] == "500"
    assert not engine.jobs


async def test_the_load_reads_what_djl_has_merged_then_other_servers_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DJL's properties are strongest; OPTION_X is in them already, and what DJL knows better says nothing to us."""
    loaded: list[Settings] = []

    async def load(settings: Settings, *_: object) -> Scripted:
        loaded.append(settings)
        return Scripted()

    environment = {"OPTION_MAX_N": "9", "OPTION_NOBODYS": "1", "HF_MODEL_ID": "hub/b", "MAX_TOTAL_TOKENS": "64"}
    monkeypatch.setattr(os, "environ", environment)

    async def watch(*_: object) -> None:
        pass

    monkeypatch.setattr("lmi_chat.server.bootstrap.load", load)
    monkeypatch.setattr(handler, "_end_with", watch)
    monkeypatch.setattr("lmi_chat.server.children.Processes.note", lambda _: None)
    properties = {"max_n": "3", "tool_server": "demo", "rolling_batch": "disable", "nobodys": "1"}
    for more in (properties, properties, {"model_id": "hub/a"}):
        monkeypatch.setattr(handler, "_lines", [])
        inputs = Input()
        inputs.properties = {"model_dir": str(tmp_path), **more}
        await djl.handle(inputs)
        (tmp_path / "config.json").touch()
    assert [settings.model_id for settings in loaded] == ["hub/b", str(tmp_path), "hub/a"]
    assert [(settings.limits.max_n, settings.engine["max_model_len"]) for settings in loaded] == [
        (3, "64"),
        (3, "64"),
        (16, "64"),
    ]
    assert loaded[1].origins["max_n"] == "DJL Serving's properties"
    notes = capsys.readouterr().err.splitlines()
    assert notes == ["note: DJL Serving's properties: tool_server = demo: tools: not served by this version"] * 2


async def test_calls_and_reasoning_come_as_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Scripted(said(reasoned("Hm"), called("weather", "{}")))
    message = json.loads(body(await told(engine, monkeypatch, asked(CHAT))))["choices"][0]["message"]
    function = {"name": "weather", "arguments": "{}"}
    assert message["tool_calls"] == [{"id": "call_0", "type": "function", "function": function}]
    assert (message["content"], message["reasoning_content"]) == (None, "Hm")
    outputs = await told(engine, monkeypatch, asked({**CHAT, "stream": True}))
    deltas = [json.loads(line)["choices"][0]["delta"] for line in body(outputs).splitlines()]
    assert [[*delta][-1:] for delta in deltas] == [["reasoning_content"]] * 2 + [["tool_calls"]] * 3 + [[]]


async def test_an_image(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": data_url(PNG)}}]
    chat = {"messages": [{"role": "user", "content": parts}]}
    usage = json.loads(body(await told(engine, monkeypatch, asked(chat), media=media())))["usage"]
    assert usage["prompt_tokens_details"]["multimodal_tokens"] == {"image": 3}
    assert engine.jobs[-1].prompt_text == f"a[image:{len(PNG)}]"


async def test_the_end_with_the_engine_closes_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters' are deleted: DJL starts a new process, whose own come beside them."""
    ended: list[object] = []
    monkeypatch.setattr(bootstrap, "_closing", [lambda: ended.append("files")])
    monkeypatch.setattr(bootstrap, "LAST_WORDS_S", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(Processes, "end", lambda _: ended.append("processes"))
    await handler._end_with(Scripted(is_dead=True), Pipeline(PipelineConfig()), Processes())
    assert ended == ["processes", "files", 1]


async def test_warnings_in_custom_attributes(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for is_on in (False, True):
        policy = PipelineConfig(warns_in_attributes=is_on)
        [output] = await told(engine, monkeypatch, asked({**CHAT, "temprature": 1}), policy)
        warned = output.properties["x-lmi-chat-warning"]
        attributes = output.properties.get("X-Amzn-SageMaker-Custom-Attributes")
        assert attributes == (f"lmi-chat-warning={warned}" if is_on else None)
