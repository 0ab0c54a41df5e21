"""The real engine: one server with the default model for the whole run, started as a person would start it."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import fake_engine
from lmi_chat.server import default_model
from tests.support import lora_weights
from tests.support.model_folders import thinking_folder
from tests.support.recipes import ASYNC, JUMPSTART, SDK

PARROT_NAME = "tests.support.parrot:Parrot"

START_S = 400.0
FINISH_BEFORE_S = 12.0
RUNNING = re.compile(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\d+)", re.MULTILINE)
Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Server:
    """A server process and how to ask it things."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    pings: list[tuple[float, int, dict[str, Any]]]

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One exchange on a connection of its own; header names in lower case."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def post(self, body: object, path: str = "/invocations", **headers: str) -> Reply:
        """POST a JSON body."""
        return self.request("POST", path, json.dumps(body).encode(), {"content-type": "application/json", **headers})

    def whole(self, body: object, path: str = "/invocations") -> Any:
        """POST and read a document that must be a success."""
        status, headers, data = self.post(body, path)
        assert status == 200, data
        assert int(headers["content-length"]) == len(data)
        assert "transfer-encoding" not in headers
        return json.loads(data)

    def lines(self, body: dict[str, object], path: str = "/invocations") -> list[Any]:
        """POST, streamed as lines; each line must parse alone."""
        status, headers, data = self.post({**body, "stream": True}, path, accept="application/jsonlines")
        assert status == 200, data
        assert headers["content-type"] == "application/jsonlines"
        assert data.endswith(b"\n")
        return [json.loads(line) for line in data[:-1].split(b"\n")]

    def in_engine(self) -> int:
        """Requests that the engine's scheduler has, running and waiting, by its own count."""
        return sum(int(count) for count in RUNNING.findall(self.request("GET", "/metrics")[2].decode()))

    def wait_until_idle(self, seconds: float) -> bool:
        """Whether the engine's count came to 0 in time."""
        end = time.monotonic() + seconds
        while self.in_engine():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def children(self) -> list[int]:
        """The processes under the server's: the engine's core, its worker, their helpers."""
        found, waiting = [], [self.process.pid]
        while waiting:
            own = Path(f"/proc/{waiting.pop()}/task").glob("*/children")
            below = [int(pid) for path in own for pid in path.read_text().split()]
            found += below
            waiting += below
        return found


@dataclass
class LoraServer(Server):
    """A server with LoRA that can be looked into."""

    control: int
    folder: Path
    four: list[Path]

    def look(self, question: str) -> Any:
        """Ask what tests.support.lora_served knows: loaded, versions, paths, or storm with what it needs."""
        with socket.create_connection(("127.0.0.1", self.control), timeout=240) as connection:
            connection.sendall(f"{question}\n".encode())
            return json.loads(connection.makefile().readline())


def start(
    log: Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    command: tuple[str, ...] = ("lmi_chat", "serve"),
) -> Server:
    """Start `lmi-chat serve`, or another module with its words, on a free port and wait until it is ready."""
    # float32: only there a greedy answer does not depend on what else is in the batch
    words = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", "0", "--dtype", "float32"]
    words += arguments
    with log.open("wb") as output:
        given = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", **(environment or {})}
        process = subprocess.Popen(words, stdout=output, stderr=output, env=given)
    server = Server(process, _port(process, log), log, [])
    began = time.monotonic()
    while time.monotonic() - began < START_S:
        if process.poll() is not None:
            break
        asked = time.monotonic()
        try:
            status, _, data = server.request("GET", "/ping")
        except ConnectionError:  # it has just ended, which the next round sees
            continue
        server.pings.append((time.monotonic() - asked, status, json.loads(data)))
        if status == 200:
            return server
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"the server did not start:\n{log.read_text()[-4000:]}")


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    for _ in range(600):
        found = re.search(r"listening on http://[^:]+:(\d+)", log.read_text())
        if found:
            return int(found[1])
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError("the port was not bound")


def is_all_gone(pids: list[int], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def end(server: Server) -> None:
    """End a server that a test may have ended already."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(40)
        except subprocess.TimeoutExpired:
            server.process.kill()


@pytest.fixture(scope="session")
def model() -> Path:
    """The default model's folder."""
    return default_model.fetch(default_model.folder())


@pytest.fixture(scope="session")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The one that most tests share; test_shutdown.py ends it, so that file runs last."""
    assert model.is_dir()
    running = start(tmp_path_factory.mktemp("server") / "log", "--console", "true")  # as `make run` does
    yield running
    end(running)


@pytest.fixture(scope="session")
def other(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second one, with everything that a deployment may choose otherwise; test_death.py kills its engine.

    Its settings come from everywhere: published deployments' variables of LMI, JumpStart, TGI and vLLM's container, a
    serving.properties, and the command line.
    """
    folder = tmp_path_factory.mktemp("other")
    (folder / "async").mkdir()
    properties = folder / "serving.properties"
    properties.write_text(
        "engine=Python\noption.max_rolling_batch_size=8\noption.scheduling_policy=priority\nminWorkers=1\n"
        'option.structured_outputs_config={"disable_any_whitespace":true}\n'
        'option.speculative_config={"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":3}\n'
        f'option.kv_events_config={{"enable_kv_cache_events":true,"endpoint":"ipc://{folder}/events"}}\n'
    )
    environment = {
        **ASYNC,
        **JUMPSTART,
        **SDK,
        "PATH": os.environ["PATH"],
        "HF_MODEL_ID": str(model),
        "TENSOR_PARALLEL_DEGREE": "max",
        "OPTION_ENABLE_AUTO_TOOL_CHOICE": "true",
        "OPTION_TOOL_CALL_PARSER": "hermes",
        "SERVING_FAIL_FAST": "true",
        "MAX_INPUT_LENGTH": "1000",
        "MAX_TOTAL_TOKENS": "1024",
        "SM_VLLM_STREAM_INTERVAL": "3",
        "SM_VLLM_REASONING_PARSER": "none",
        "SAGEMAKER_SAFE_PORT_RANGE": "29000-29099",
    }
    running = start(
        folder / "log",
        *("--properties", str(properties), "--served-model-name", "own,other", "--max-logprobs", "30"),
        *("--finish-reason", "lmi", "--strict-requests", "--tgi-compat", "--store", str(folder / "store.sqlite")),
        *("--async-folder", str(folder / "async")),
        *("--finish-before-seconds", str(FINISH_BEFORE_S), "--stall-seconds", "3"),
        environment=environment,
    )
    yield running
    end(running)


@pytest.fixture(scope="session")
def lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoraServer]:
    """A server with LoRA, for all tests of adapters; `four` random ones lie ready in its folder, and are in no use."""
    folder = tmp_path_factory.mktemp("lora")
    four = [lora_weights.write(folder / f"w{seed}", model, seed) for seed in range(4)]
    with socket.create_server(("127.0.0.1", 0)) as found:
        control = found.getsockname()[1]
    words = ("--enable-lora", "true", "--max-loras", "2", "--max-cpu-loras", "3", "--max-lora-rank", "8")
    running = start(
        folder / "log",
        *(*words, "--max-model-len", "512", "--max-num-seqs", "16", "--kv-cache-memory-bytes", str(256 * 2**20)),
        command=("tests.support.lora_served", str(control), "serve"),
    )
    yield LoraServer(running.process, running.port, running.log, running.pings, control, folder, four)
    end(running)


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fake_engine.Fake]:
    """An engine without a model, at a pace of one's own, which gives each request its prompt back."""
    engine = fake_engine.start(tmp_path_factory.mktemp("stand_in"))
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def attached(model: Path, stand_in: fake_engine.Fake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`lmi-chat serve` on it."""
    assert model.is_dir()
    words = ("--input", stand_in.addresses["input_address"], "--output", stand_in.addresses["output_address"])
    running = start(tmp_path_factory.mktemp("attached") / "log", *words, command=("bench.attached", "ours"))
    yield running
    end(running)


_parrots: list[Server] = []


@pytest.fixture(scope="module")
def parrot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model thinks, calls tools, and says what stands behind PARROT; it ends with its last module."""
    if not _parrots:
        root = tmp_path_factory.mktemp("thinking")
        folder = thinking_folder(root / "thinker")
        path = os.pathsep.join((str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")))
        words = ("--model-id", str(folder), "--logits-processors", PARROT_NAME, "--max-model-len", "2048")
        _parrots.append(start(root / "log", *words, environment={"PYTHONPATH": path}))
    yield _parrots[0]
    users = [item for item in request.session.items if "parrot" in getattr(item, "fixturenames", ())]
    if users[-1].getparent(pytest.Module) is request.node or request.session.shouldstop:
        end(_parrots.pop())


@pytest.fixture(scope="session", autouse=True)
def _no_parrot_is_left() -> Iterator[None]:
    yield
    while _parrots:  # a run that ends early
        end(_parrots.pop())


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> Any:
    """transformers' own tokenizer of the model, as the reference."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


LAST = ("test_shutdown", "test_embedding", "test_configured", "test_stored", "test_death")
"""The shared server ends before the other one starts: there are two cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that end a server come last; each may have to wait for a start."""
    for item in items:
        item.add_marker(pytest.mark.timeout(600))
    items.sort(key=lambda item: next((place for place, name in enumerate(LAST, 1) if name in item.nodeid), 0))
    truth = [item for item in items if item.path.stem == "test_one_truth"]
    tools = next((place for place, item in enumerate(items) if item.path.stem == "test_tools"), None)
    if truth and tools is not None:  # they share a server, which need not wait for all that stands between
        others = [item for item in items if item not in truth]
        place = others.index(items[tools])
        items[:] = [*others[:place], *truth, *others[place:]]
