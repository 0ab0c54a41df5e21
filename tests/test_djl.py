"""DJL's asynchronous mode from the Python side: what `handle` gives, with DJL's two classes as it documents them."""

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from lmi_chat import djl
from lmi_chat.errors import Bug
from lmi_chat.flow import Line, Policy
from lmi_chat.settings import Settings
from tests.fakes import desk
from tests.scripted import Scripted, said
from tests.test_flow import breaking

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


class Input:
    """What DJL hands over: properties with the caller's casing, and the body."""

    def __init__(self, body: object = None, **properties: str) -> None:
        self._body, self._properties = body, properties

    def is_empty(self) -> bool:
        return self._body is None

    def get_properties(self) -> dict[str, str]:
        return self._properties

    def get_as_bytes(self) -> bytes:
        return self._body if isinstance(self._body, bytes) else json.dumps(self._body).encode()


class Output:
    """What DJL takes: parts, and properties that become headers."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []
        self.properties: dict[str, str] = {}

    def add(self, part: dict[str, Any]) -> None:
        self.parts.append(part)

    def add_property(self, name: str, value: str) -> None:
        self.properties[name] = value

    @staticmethod
    def binary_encode(pairs: dict[str, Any]) -> dict[str, Any]:
        return pairs


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    package = types.ModuleType("djl_python")
    package.Output = Output  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "djl_python", package)
    return Scripted(said("Hello!"))


async def told(engine: Scripted, monkeypatch: pytest.MonkeyPatch, inputs: Input) -> list[Output]:
    line = Line(Policy())
    await line.open(engine, desk())
    monkeypatch.setattr(djl, "_lines", [line])
    answer = await djl.handle(inputs)
    assert answer is not None
    outputs = [output async for output in answer]
    assert [part["last"] for output in outputs for part in output.parts] == [False] * (len(outputs) - 1) + [True]
    assert (line.active, engine.running) == (0, 0)
    return outputs


def body(outputs: list[Output]) -> bytes:
    return b"".join(output.parts[0]["data"] for output in outputs)


async def test_whole_answers(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = await told(engine, monkeypatch, Input(CHAT, **{"Content-Type": "application/json"}))
    assert outputs[0].properties["Content-Type"] == "application/json"
    assert json.loads(body(outputs))["choices"][0]["message"]["content"] == "Hello!"
    outputs = await told(engine, monkeypatch, Input({"inputs": "x"}))
    assert json.loads(body(outputs)) == {"generated_text": "Hello!"}


async def test_streams_are_a_frame_to_an_output(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = await told(engine, monkeypatch, Input({**CHAT, "stream": True}, ACCEPT="text/event-stream"))
    assert outputs[0].properties["Content-Type"] == "text/event-stream"
    assert len(outputs) == len("Hello!") + 2
    assert body(outputs).endswith(b"data: [DONE]\n\n")
    outputs = await told(engine, monkeypatch, Input({"inputs": "x", "stream": True}))
    assert [json.loads(line)["token"]["text"] for line in body(outputs).splitlines()] == list("Hello!")


async def test_a_refusal_has_code_and_a_line_of_text(engine: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in (b"{", b'{"inputs":"x","parameters":{"top_p":7}}'):
        outputs = await told(engine, monkeypatch, Input(bad))
        assert len(outputs) == 1
        assert outputs[0].parts[0]["code"] == 400
        assert "\n" not in outputs[0].parts[0]["error"]


async def test_an_error_in_a_stream_is_a_frame_and_the_stream_ends(
    engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.script = breaking(Bug("boom"))
    outputs = await told(engine, monkeypatch, Input({"inputs": "x", "stream": True}))
    assert json.loads(body(outputs).splitlines()[-1])["error"] == "boom"


async def test_a_fault_of_ours_never_leaves_the_generator_hanging(
    engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.script = lambda _: [ZeroDivisionError("ours")]
    outputs = await told(engine, monkeypatch, Input(CHAT))
    assert outputs[0].parts[0]["code"] == 500
    assert "ours" not in outputs[0].parts[0]["error"]


async def test_the_load_reads_what_djl_has_merged_then_other_servers_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DJL's properties are strongest; OPTION_X is in them already, and what DJL knows better says nothing to us."""
    loaded: list[Settings] = []

    async def load(settings: Settings, *_: object) -> None:
        loaded.append(settings)

    environment = {"OPTION_MAX_N": "9", "OPTION_NOBODYS": "1", "HF_MODEL_ID": "hub/b", "MAX_TOTAL_TOKENS": "64"}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr("lmi_chat.start.load", load)
    monkeypatch.setattr(djl, "_lines", [])
    properties = {"max_n": "3", "tool_call_parser": "hermes", "rolling_batch": "disable", "nobodys": "1"}
    await djl.handle(Input(None, model_dir=str(tmp_path), **properties))
    (tmp_path / "config.json").touch()
    await djl.handle(Input(None, model_dir=str(tmp_path), **properties))
    await djl.handle(Input(None, model_dir=str(tmp_path), model_id="hub/a"))
    assert [settings.model_id for settings in loaded] == ["hub/b", str(tmp_path), "hub/a"]
    assert [(settings.max_n, settings.engine["max_model_len"]) for settings in loaded] == [
        (3, "64"),
        (3, "64"),
        (16, "64"),
    ]
    assert loaded[1].origins["max_n"] == "DJL Serving's properties"
    notes = capsys.readouterr().err.splitlines()
    assert notes == ["note: DJL Serving's properties: tool_call_parser = hermes: tools: not served by this version"] * 2
