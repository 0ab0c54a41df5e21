"""Handlers of a model directory, called as DJL calls them, without HTTP."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from djl_python import Input, Output
from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output
from lmi_chat.djl import custom_handler
from lmi_chat.djl.custom_handler import BadDirectory, Foreign
from lmi_chat.errors import Busy, HookFailed


class Kept:
    """An Out that keeps everything."""

    def __init__(self) -> None:
        self.code, self.is_stream, self.data = 0, False, b""
        self.headers: Mapping[str, str] = {}

    async def head(self, code: int, headers: Mapping[str, str], *, is_stream: bool) -> None:
        self.code, self.headers, self.is_stream = code, headers, is_stream

    async def send(self, data: bytes) -> None:
        self.data += data


def foreign(handle: Any, properties: Mapping[str, Any] | None = None, **how: Any) -> Foreign:
    module = ModuleType("custom")
    setattr(module, (properties or {}).get("handler", "handle"), handle)
    return Foreign(module, properties or {}, how.pop("deadline_s", 5), **how)


async def answered(handler: Foreign, body: bytes = b"{}") -> Kept:
    out = Kept()
    await handler.answer({"Content-Type": "application/json"}, {"data": body}, out)
    return out


async def test_an_asynchronous_handlers_own_error_is_its_callers() -> None:
    async def refuse(_: Input) -> Output:
        return Output().error("no such key", 401)

    out = await answered(foreign(refuse))
    assert (out.code, json.loads(out.data)["error"], out.is_stream) == (401, "no such key", False)

    async def plain(_: Input) -> Output:
        return Output().add_as_json({"a": 1}).add_property("x-mine", "b")

    out = await answered(foreign(plain))
    assert (out.code, json.loads(out.data), out.headers) == (200, {"a": 1}, {"x-mine": "b"})


async def test_an_asynchronous_generators_own_error() -> None:
    async def refuse(_: Input) -> Any:
        yield Output().error("no such key", 401)

    out = await answered(foreign(refuse))
    assert (out.code, json.loads(out.data)["error"], out.is_stream) == (401, "no such key", False)

    async def late(_: Input) -> Any:
        yield create_stream_chunk_output("a", last_chunk=False)
        yield create_stream_chunk_output("", last_chunk=True, error="it broke", code=500)

    out = await answered(foreign(late))
    lines = out.data.splitlines()
    assert (out.code, lines[0], json.loads(lines[1])) == (200, b"a", {"error": "it broke", "code": 500})


async def test_a_generator_of_plain_parts_ends_when_it_ends() -> None:
    async def stream(_: Input) -> Any:
        yield Output().add(b"a\xff").add_property("content-type", "application/octet-stream")
        yield Output().add(b"b")

    out = await answered(foreign(stream))
    assert (out.code, out.is_stream, out.data) == (200, True, b"a\xffb")


async def test_what_a_handler_must_not_give() -> None:
    with pytest.raises(HookFailed, match="the handler must give an Output, got dict"):
        await answered(foreign(lambda _: {"a": 1}))

    async def nothing(_: Input) -> Any:
        outputs: list[Output] = []
        for output in outputs:
            yield output

    with pytest.raises(HookFailed, match="ended without a last part"):
        await answered(foreign(nothing))


async def test_a_handler_that_batches_by_itself_is_told_in_a_sentence() -> None:
    def batch(_: Input) -> Output:
        return Output().add(Output.binary_encode({"data": "a", "last": True}), key="data", batch_index=0)

    with pytest.raises(HookFailed, match=r"batches by itself \(rolling batch\), which is not served: make it async"):
        await answered(foreign(batch))


async def test_what_a_handler_raises_is_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Input) -> Output:
        raise RuntimeError("/opt/ml/model/secret.bin is broken")

    with pytest.raises(
        HookFailed, match=r"the handler failed; the server's log says why under [0-9a-f]{12}$"
    ) as failed:
        await answered(foreign(broken))
    cause = failed.value.message.rpartition(" ")[2]
    (record,) = [record for record in caplog.records if cause in record.getMessage()]
    assert record.exc_info
    assert "secret.bin" in str(record.exc_info[1])


async def test_an_input_has_what_djl_adds_and_no_header_replaces_it() -> None:
    seen: list[Input] = []
    always = {"device_id": "0", "tensor_parallel_degree": 2}
    handler = foreign(seen.append, {"model_dir": "/m", "handler": "infer", "mine": "a"}, always=always)
    await handler.load()
    await handler.answer({"device_id": "7", "X-Id": "1"}, {"data": b"x"}, Kept())
    added = {**always, "model_dir": "/m", "handler": "infer"}
    assert [each.get_properties() for each in seen] == [{"mine": "a", **added}, {"X-Id": "1", **added}]
    assert seen[0].is_empty()
    assert [each.get_function_name() for each in seen] == ["infer", "infer"]
    with pytest.raises(BadDirectory, match="custom has no function other"):
        Foreign(ModuleType("custom"), {"handler": "other"}, 1)


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (Output().error("no weights", code=500), "the handler refused to load with 500 no weights"),
        (Output(503, "not today"), "the handler refused to load with 503 not today"),
    ],
)
async def test_a_handler_that_refuses_its_load_says_why(output: Output, why: str) -> None:
    with pytest.raises(BadDirectory, match=f"{why}$"):
        await foreign(lambda _: output).load()


async def test_a_generator_is_loaded_too() -> None:
    loaded = []

    async def handle(inputs: Input) -> Any:
        if inputs.is_empty():
            loaded.append(True)
            return
        yield create_non_stream_output({"a": 1})

    await (handler := foreign(handle)).load()
    assert loaded == [True]
    assert json.loads((await answered(handler)).data) == {"a": 1}


async def test_so_many_wait_for_a_plain_handler_and_no_more() -> None:
    may_end, begun = threading.Event(), threading.Event()

    def slow(_: Input) -> Output:
        begun.set()
        may_end.wait(10)
        return Output().add(b"x")

    handler = foreign(slow, queue=2)
    tasks = [asyncio.create_task(answered(handler)) for _ in range(3)]
    await asyncio.to_thread(begun.wait, 10)
    with pytest.raises(Busy, match="2 requests wait, which is job_queue_size"):
        await answered(handler)
    may_end.set()
    assert [(await task).data for task in tasks] == [b"x"] * 3
    assert (await answered(handler)).data == b"x"
    assert (await answered(foreign(slow, queue=0))).data == b"x"


async def test_an_asynchronous_handlers_requests_wait_until_their_first_byte() -> None:
    may_begin, may_end = asyncio.Event(), asyncio.Event()

    async def stream(_: Input) -> Any:
        await may_begin.wait()
        yield create_stream_chunk_output("a", last_chunk=False)
        await may_end.wait()
        yield create_stream_chunk_output("b", last_chunk=True)

    handler = foreign(stream, queue=2)
    tasks = [asyncio.create_task(answered(handler)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="2 requests wait"):
        await answered(handler)
    may_begin.set()
    while handler._waiting:
        await asyncio.sleep(0)
    late = asyncio.create_task(answered(handler))
    may_end.set()
    assert [(await task).data for task in (*tasks, late)] == [b"a\nb\n"] * 3


@pytest.mark.parametrize("name", ["rolling_batch", "huggingface", "properties_manager.hf_properties"])
def test_an_import_of_djls_own_handlers_is_told_where_to_read_of_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.py").write_text(f"import djl_python.{name}\n")
    with pytest.raises(
        BadDirectory, match=r"model\.py does not load: No module named 'djl_python\..*docs/djl\.md lists"
    ):
        custom_handler.load(tmp_path, "model.py")


def test_requirements_that_cannot_be_installed_stop_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "target"))
    (tmp_path / "requirements.txt").write_text("no-such-package-of-anybody==7\n")
    with pytest.raises(
        BadDirectory, match=r"pip could not install .*requirements\.txt: ERROR: No matching distribution"
    ):
        custom_handler.install(tmp_path)


@pytest.mark.parametrize("is_writable", [True, False])
def test_requirements_go_to_a_folder_of_their_own_where_the_environment_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_writable: bool
) -> None:
    monkeypatch.setattr("os.access", lambda *_: is_writable)
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(tmp_path / "own"))
    monkeypatch.setattr("sys.path", [*sys.path])
    ran: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", pip)
    custom_handler.install(tmp_path)
    assert (str(tmp_path / "own") in ran[0], str(tmp_path / "own") in sys.path) == (not is_writable,) * 2
    assert ran[0][1:4] == ["-m", "pip", "install"]
