"""One image for the whole run, and containers started from it as SageMaker starts them."""

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.server import default_model
from tests.container import tool as container_tool
from tests.container.tool import Tool, say

PING_S = 2.0
"""SageMaker's own limit for the answer of a ping."""
START_S = 400.0


@dataclass
class Container:
    """A running container and how to ask it things."""

    tool: Tool
    id: str
    port: int
    pings: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def ping(self) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PING_S)
        with closing(connection):
            connection.request("GET", "/ping")
            answer = connection.getresponse()
            self.pings.append((answer.status, json.loads(answer.read())))
            return answer.status

    def wait_for_port(self) -> None:
        """Until the port is bound, which is before anything slow begins."""
        self._wait(lambda: True, "the port was not bound")

    def wait_until_ready(self) -> None:
        self._wait(lambda: self.ping() == http.client.OK, "the server did not get ready")

    def _wait(self, is_met: Any, complaint: str) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.is_running():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=PING_S):
                    pass
                if is_met():
                    return
            except ConnectionRefusedError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"{complaint}:\n{self.log()}")

    def is_running(self) -> bool:
        return bool(self.tool.inspect(self.id)["State"]["Running"])

    def log(self) -> str:
        return self.tool("logs", self.id)[-6000:]

    def processes(self) -> list[int]:
        """The host's numbers of all its processes."""
        found = [int(self.tool.inspect(self.id)["State"]["Pid"])]
        for pid in found:
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(word) for word in path.read_text().split()]
        return found

    def stop(self) -> int:
        """SIGTERM, and SIGKILL 30 s later, as SageMaker does; gives the exit code."""
        self.tool("stop", "--time", "30", self.id, seconds=60)
        return int(self.tool.inspect(self.id)["State"]["ExitCode"])


@contextmanager
def running(tool: Tool, image: str, model: Path, *options: str) -> Iterator[Container]:
    """`run IMAGE serve` with the model read-only, as little else as possible writable, and 64 MiB of shared memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--detach", "--network", "host", "--read-only", "--tmpfs", "/tmp", *tool.run, *options]
    # float32: in bfloat16 a greedy answer of so small a model depends on the processor's instructions
    words += ["--env", "OPTION_DTYPE=float32", "--env", f"SAGEMAKER_BIND_TO_PORT={port}"]
    words += ["--volume", f"{model}:/opt/ml/model:ro"]
    container = Container(tool, tool("run", *words, image, "serve").splitlines()[-1], port)
    try:
        yield container
    finally:
        tool("rm", "--force", container.id)


@pytest.fixture(scope="session")
def tool() -> Tool:
    """podman or docker; `CONTAINER=optional` lets a machine that can have neither pass."""
    try:
        return container_tool.find()
    except container_tool.Unavailable as why:
        if os.environ.get("CONTAINER") == "optional":
            pytest.skip(str(why))
        pytest.exit(str(why), returncode=1)


@pytest.fixture(scope="session")
def image(tool: Tool) -> str:
    try:
        return container_tool.build(tool)
    except container_tool.Unavailable as why:
        pytest.exit(str(why), returncode=1)


@pytest.fixture(scope="session")
def model() -> Path:
    return default_model.fetch(default_model.folder())


@pytest.fixture(scope="module")
def container(tool: Tool, image: str, model: Path) -> Iterator[Container]:
    """The one that most checks share; the last of them stops it."""
    began = time.monotonic()
    with running(tool, image, model) as started:
        started.wait_for_port()
        say(f"container: port bound after {time.monotonic() - began:.1f} s")
        started.wait_until_ready()
        say(f"container: ready after {time.monotonic() - began:.1f} s")
        yield started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A build and a start belong to the first test that asks for them."""
    for item in items:
        item.add_marker(pytest.mark.timeout(2400))
