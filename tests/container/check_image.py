"""What a container of the image does. Run by `make container-test`, by no other set of tests: hence the file's name."""

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import boto3
import httpx

from tests.container.conftest import Container, running
from tests.container.tool import Tool, say

CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
STANDARD = {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 2, "do_sample": False}}
STREAM = {
    "messages": [{"role": "user", "content": "Tell a long story."}],
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}
ANSWER = "The capital of France is Paris."


def curl(container: Container, body: object) -> Any:
    words = ["curl", "--silent", "--show-error", "--max-time", "60", f"http://127.0.0.1:{container.port}/invocations"]
    words += ["--header", "content-type: application/json", "--data", json.dumps(body)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def test_the_image_tells_what_the_platform_asks(tool: Tool, image: str) -> None:
    config = tool.inspect(image)["Config"]
    assert config["Labels"]["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    assert "com.amazonaws.sagemaker.capabilities.multi-models" not in config["Labels"]
    assert (config["Entrypoint"], config["Cmd"]) == (["lmi-chat"], ["serve"])


def test_nothing_of_the_build_stays_in_the_image(tool: Tool, image: str) -> None:
    """No package index, no certificates, no caches, no compiler, no uv."""
    script = """
    ls -A /run/secrets /root/.cache /root/.config /var/lib/apt/lists /opt/tools /src /tmp 2>/dev/null | grep -v :$
    ls /etc/pip.conf 2>/dev/null; command -v uv gcc g++; exit 0
    """
    out = tool("run", "--rm", *tool.run, "--network", "host", "--entrypoint", "sh", image, "-c", script)
    assert out.split() == []


def test_all_bytecode_is_compiled(tool: Tool, image: str) -> None:
    """Else each start of the engine compiles it again, three times over."""
    script = """
import importlib.util, pathlib, sys, torch.version, vllm.version
for name in ("lmi_chat.server.process", "torch", "vllm", "asyncio.tasks", "transformers"):
    found = importlib.util.find_spec(name)
    assert pathlib.Path(importlib.util.cache_from_source(found.origin)).is_file(), found.origin
"""
    tool("run", "--rm", *tool.run, "--network", "host", "--entrypoint", "python", image, "-c", script)


def test_the_image_is_a_djl_model_directory(tool: Tool, image: str) -> None:
    out = tool("run", "--rm", *tool.run, "--network", "host", "--entrypoint", "ls", image)
    assert {"model.py", "serving.properties", "LICENSE"} <= {*out.split()}


def test_explain_config_for_any_user(tool: Tool, image: str) -> None:
    words = ("--user", "12345:12345", "--network", "host", "--env", "OPTION_MAX_MODEL_LEN=512")
    out = tool("run", "--rm", "--read-only", *tool.run, *words, image, "explain-config")
    assert any(line.split()[:2] == ["engine.max_model_len", "512"] for line in out.splitlines()), out


def test_ping_tells_the_phases_from_the_first_moment(container: Container) -> None:
    assert container.pings[0][0] == 503
    assert all({"phase", "progress", "seconds"} <= ping.keys() for status, ping in container.pings if status == 503)
    assert len({ping["phase"] for status, ping in container.pings if status == 503}) > 1
    assert container.pings[-1][0] == 200


def test_the_health_check_is_met(tool: Tool, container: Container) -> None:
    tool("exec", container.id, "python", "-I", "/opt/lmi-chat/model/ping.py")


def test_chat_and_standard_by_curl(container: Container) -> None:
    assert curl(container, CHAT)["choices"][0]["message"]["content"] == ANSWER
    assert curl(container, STANDARD) == {"generated_text": " Paris."}


def test_boto3(container: Container) -> None:
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{container.port}",
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )
    reply = runtime.invoke_endpoint(EndpointName="own", ContentType="application/json", Body=json.dumps(CHAT))
    assert json.loads(reply["Body"].read())["choices"][0]["message"]["content"] == ANSWER
    runtime.close()


class Stream(threading.Thread):
    """One streamed chat: its lines, and an event for the first of them."""

    def __init__(self, port: int, tokens: int) -> None:
        super().__init__()
        self.lines: list[Any] = []
        self.begun = threading.Event()
        self.tokens = tokens
        self._url, self._body = f"http://127.0.0.1:{port}/invocations", {**STREAM, "max_tokens": tokens}
        self.start()

    def run(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=120) as answer:
            for line in answer.iter_lines():
                self.lines.append(json.loads(line))
                self.begun.set()

    @property
    def is_whole(self) -> bool:
        """All tokens came: those of a character in parts, and special ones, have no line of their own."""
        if len(self.lines) < 2:  # the last line of text, and the counts
            return False
        *_, last, counts = self.lines
        is_full: bool = counts["usage"]["completion_tokens"] == self.tokens
        return is_full and last["choices"][0]["finish_reason"] == "length"


def test_ping_is_answered_under_load(container: Container) -> None:
    streams = [Stream(container.port, 40) for _ in range(16)]
    took = []
    while any(stream.is_alive() for stream in streams):
        asked = time.monotonic()
        assert container.ping() == 200
        took.append(time.monotonic() - asked)
        time.sleep(0.05)
    assert all(stream.is_whole for stream in streams)
    say(f"/ping under 16 streams: {len(took)} asked, the slowest answered in {max(took) * 1000:.0f} ms")


def test_sigterm_lets_four_streams_complete(container: Container) -> None:
    """Within the 30 s that the platform gives, with exit code 0 and no process left."""
    processes = container.processes()
    assert len(processes) >= 3
    streams = [Stream(container.port, 60) for _ in range(4)]
    assert all(stream.begun.wait(60) for stream in streams)
    asked = time.monotonic()
    code = container.stop()
    took = time.monotonic() - asked
    for stream in streams:
        stream.join()
    assert code == 0, container.log()
    assert all(stream.is_whole for stream in streams)
    end = time.monotonic() + 5  # the kernel ends what the first process leaves, which has not been waited for
    while left := [pid for pid in processes if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
    say(f"stopped while 4 streams ran: all complete, exit code {code} after {took:.1f} s, no process left")


def test_any_user_and_a_stop_while_loading(tool: Tool, image: str, model: Path) -> None:
    """A server that is stopped before it is ready ends at once, and a user that the image does not know may run it."""
    with running(tool, image, model, "--user", "12345:12345") as container:
        container.wait_for_port()
        assert container.ping() == 503
        asked = time.monotonic()
        assert container.stop() == 0, container.log()
        say(f"stopped while it loaded: exit code 0 after {time.monotonic() - asked:.1f} s")
    with running(tool, image, model, "--user", "12345:12345") as container:
        container.wait_until_ready()
        assert curl(container, STANDARD) == {"generated_text": " Paris."}
        assert container.stop() == 0, container.log()
