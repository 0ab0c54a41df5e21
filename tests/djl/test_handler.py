"""DJL's asynchronous mode from the Python side: what `handle` gives for the Inputs that DJL makes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from djl_python import Input, Output
from lmi_chat import djl
from lmi_chat.codec.framing import EVENTS
from lmi_chat.config.settings import Settings
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.djl import handler, output_parts
from lmi_chat.errors import Bug
from lmi_chat.job import Delta, Finished
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from lmi_chat.storage.sessions import Sessions
from tests.pipeline.test_pipeline import breaking
from tests.support.fakes import deployment
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
    engine: Scripted, monkeypatch: pytest.MonkeyPatch, inputs: Input, policy: PipelineConfig | None = None
) -> list[Output]:
    """One request's Outputs: each has one part, only the last one says that it is, and nothing is left running."""
    line = Pipeline(policy or PipelineConfig())
    await line.open(engine, deployment())
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


async def test_adapters_are_refused_in_djls_way() -> None:
    for function in (djl.register_adapter, djl.update_adapter, djl.unregister_adapter):
        output = await function(asked(b"", name="a", src="/x"))
        assert output.content.key_at(0) == "data"
        assert pairs(output)["code"] == "400"
        assert "LoRA is off" in pairs(output)["error"]


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
