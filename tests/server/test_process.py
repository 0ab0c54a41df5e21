"""How a server process ends: a stop while the engine is loaded, the engine's end, a stop while it answers."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from lmi_chat.config.settings import Settings, read
from lmi_chat.observability import startup
from lmi_chat.pipeline.pipeline import Pipeline
from lmi_chat.server import bootstrap, process
from lmi_chat.server.process import FAILED, STOPPED, Stop
from tests.pipeline.test_pipeline import CHAT, STREAM, answered, breaking, opened
from tests.support.fakes import deployment
from tests.support.scripted import Scripted, said

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


def test_a_stop_while_loading_ends_at_once(tmp_path: Path) -> None:
    """The thread that imports the engine cannot be stopped; the process ends all the same, with exit code 0."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("import time; time.sleep(600)")
    (tmp_path / "config.json").write_text("{}")
    words = [sys.executable, "-m", "lmi_chat", "serve", "--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with subprocess.Popen(
        [*words, "--model-id", str(tmp_path), "--load-format", "dummy", "--skip-tokenizer-init"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as server:
        assert server.stderr is not None
        heard = []
        for line in server.stderr:
            heard.append(line)
            if "importing the engine" in line:
                server.send_signal(signal.SIGTERM)
                break
        else:
            raise AssertionError("".join(heard))
        try:
            assert server.wait(20) == 0
        finally:
            server.kill()


@pytest.mark.parametrize("is_dead", [True, False], ids=["the engine's end", "a signal"])
async def test_what_ends_a_server_ends_its_answers(
    is_dead: bool,  # noqa: FBT001
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "WATCH_S", 0.01)
    monkeypatch.setattr(bootstrap, "LAST_WORDS_S", 0.01)
    line, engine = await opened(lambda job: breaking(3600.0)(job))
    running = asyncio.create_task(answered(line, STREAM))
    while not line.active:
        await asyncio.sleep(0)
    stop, settings = Stop(), read({"drain_seconds": "0.05"}, {}, None, {})
    watch = asyncio.create_task(process._watch(engine, line, stop, settings))
    await asyncio.sleep(0.03)
    assert not watch.done()
    if is_dead:
        engine.is_dead = True
    else:
        stop.signal()
    assert await watch == (FAILED if is_dead else STOPPED)
    assert (b'"code":"engine_down"' if is_dead else b'"code":"draining"') in (await running).data
    lines = capsys.readouterr().err.splitlines()
    ends = ["lmi-chat  stopping: 1 running, up to 0.05 s for them", "lmi-chat  stopped"]
    assert lines == (["lmi-chat  the engine is gone; ending"] if is_dead else ends)


async def test_a_server_from_its_port_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the engine is production's: the port, the routes, the signal, what is said, the exit code."""
    engine = Scripted(said("Hello!"))

    async def load(_: Settings, line: Pipeline, enter: Callable[[str], None], *__: object, **___: object) -> Scripted:
        enter(startup.FIRST_TOKEN)
        await line.open(engine, deployment())
        enter(startup.READY)
        return engine

    monkeypatch.setattr(bootstrap, "load", load)
    for name in ("note", "end"):  # of this process's children the tests have some, too
        monkeypatch.setattr(f"lmi_chat.server.children.Processes.{name}", lambda _: None)
    settings = read({"host": "127.0.0.1", "port": "0", "access_log": "off"}, {}, None, {})
    running, text = asyncio.create_task(process.run(settings)), ""
    while "ready after" not in text:
        await asyncio.sleep(0.01)
        text += capsys.readouterr().err
    port = text.partition("http://127.0.0.1:")[2].partition(" ")[0]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as ask:
        assert (await ask.get("/ping")).json() == {"status": "ready", "active": 0}
        answer = await ask.post("/invocations", json=CHAT)
    assert answer.json()["choices"][0]["message"]["content"] == "Hello!"
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == STOPPED
    ends = ["lmi-chat  stopping: 0 running, up to 25 s for them", "lmi-chat  stopped"]
    assert capsys.readouterr().err.splitlines() == ends
