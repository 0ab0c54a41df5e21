"""The API processes that are compared, each on a stand-in engine of its own; a further one is a function in SERVERS."""

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import fake_engine, rust_frontend
from bench.fake_engine import Fake
from bench.history import GENERAL, OURS, REASONING, RUST, SERVE, TOOLS
from lmi_chat.server import default_model

CORES = sorted(os.sched_getaffinity(0))
API_CORE, LOAD_CORE = CORES[0], CORES[min(1, len(CORES) - 1)]
NAME = "bench"  # the model's name in requests
START_S = 300
CONTEXT, RUNNING = 8192, 2048
Command = Callable[[Path, Mapping[str, str], int], list[str] | None]


@dataclass
class Server:
    """One API process and its engine."""

    name: str
    process: "subprocess.Popen[bytes]"
    engine: Fake
    port: int

    def cpu_s(self) -> float:
        """CPU time of all its threads so far, those that ended too, user and kernel, in nanosecond steps."""
        clock = ctypes.c_int()
        if ctypes.CDLL(None, use_errno=True).clock_getcpuclockid(self.process.pid, ctypes.byref(clock)):
            raise SystemExit(f"{self.name} has ended")
        return time.clock_gettime(clock.value)

    def resident_bytes(self) -> int:
        """Its resident memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Awake for as long; between its turns a server is stopped, so that no timer of its own disturbs another's."""
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGSTOP)

    def is_ready(self) -> bool:
        """Whether it answers as ready."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        path = "/ping" if self.name.startswith(OURS) else "/health"
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        return False


SHARED = {"served_model_name": NAME, "max_model_len": CONTEXT, "max_num_seqs": RUNNING}


def _words(arguments: Mapping[str, object]) -> list[str]:
    return [word for name, value in arguments.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _attached(which: str, addresses: Mapping[str, str], arguments: Mapping[str, object]) -> list[str]:
    words = ["--input", addresses["input_address"], "--output", addresses["output_address"]]
    return [sys.executable, str(Path(__file__).with_name("attached.py")), which, *words, *_words(arguments)]


def ours(model: Path, addresses: Mapping[str, str], port: int) -> list[str]:
    """`lmi-chat serve`."""
    return _attached("ours", addresses, {**SHARED, "model_id": model, "port": port, "host": "127.0.0.1"})


def vllm(model: Path, addresses: Mapping[str, str], port: int) -> list[str]:
    """`vllm serve`."""
    return _attached("vllm", addresses, {**SHARED, "model": model, "port": port, "host": "127.0.0.1"})


def rust(model: Path, addresses: Mapping[str, str], port: int) -> list[str] | None:
    """`vllm serve` with VLLM_USE_RUST_FRONTEND=1, where its program can be had."""
    if rust_frontend.binary() is None:
        return None
    shared = {**SHARED, "served_model_name": [NAME]}
    return rust_frontend.command(model, addresses["input_address"], addresses["output_address"], port, **shared)


def _general(tool_parser: str, reasoning_parser: str) -> Command:
    """`lmi-chat serve` without the fast path, with these parsers and a template that shows tools and leaves thought."""

    def command(model: Path, addresses: Mapping[str, str], port: int) -> list[str]:
        parsers = {"tool_call_parser": tool_parser, "reasoning_parser": reasoning_parser}
        general = {"fast_branch": "false", "chat_template": Path(__file__).with_name("tools.jinja"), **parsers}
        return [*ours(model, addresses, port), *_words(general)]

    return command


SERVERS: dict[str, Command] = {
    OURS: ours,
    SERVE: vllm,
    RUST: rust,
    GENERAL: _general("none", "none"),
    TOOLS: _general("hermes", "none"),
    REASONING: _general("none", "qwen3"),
}
"""Name → the command that serves `model` on 127.0.0.1:port, for an engine at these addresses; None: not to be had."""


PLAIN = (OURS, SERVE, RUST)
"""Those that are compared as they are by default."""


def busy_s() -> float:
    """How long the servers' core has been busy so far, with whatever (proc(5), the times of one CPU in ticks)."""
    lines = Path("/proc/stat").read_text().splitlines()
    user, nice, system, _, _, *interrupts = next(line for line in lines if line.startswith(f"cpu{API_CORE} ")).split()[
        1:9
    ]
    return sum(map(int, (user, nice, system, *interrupts))) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started within inherits the core: thread pools are sized for it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def running(names: list[str], folder: Path) -> Iterator[list[Server]]:
    """Start the servers, wait until each is ready, and stop them all until their turns."""
    model = default_model.fetch(default_model.folder())
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    found: list[Server] = []
    try:
        for place, name in enumerate(names):
            sockets = folder / str(place)
            sockets.mkdir()
            with on_core(LOAD_CORE):
                engine = fake_engine.start(sockets)
            port = _free_port()
            command = SERVERS[name](model, engine.addresses, port)
            if command is None:
                engine.stop()
                continue
            with on_core(API_CORE), (folder / f"{place}.log").open("wb") as log:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
            found.append(Server(name, process, engine, port))
        for server in found:
            _wait(server, folder / f"{names.index(server.name)}.log")
        for server in found:
            server.process.send_signal(signal.SIGSTOP)
        yield found
    finally:
        for server in found:
            server.process.kill()
            server.process.wait()
            server.engine.stop()


def _wait(server: Server, log: Path) -> None:
    end = time.monotonic() + START_S
    while not server.is_ready():
        if server.process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"{log.read_text()[-4000:]}\n{server.name} did not start")
        time.sleep(0.2)
    print(f"{server.name} is ready", flush=True)
