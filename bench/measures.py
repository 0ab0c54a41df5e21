"""What is measured of one server, and how: one run of the load generator between two readings of its CPU clock."""

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import servers, traffic
from bench.history import GENERAL, OURS, REASONING, RUST, SERVE, TOOLS
from bench.servers import LOAD_CORE, Server, on_core

TOKENS, STEP_MS = 400, 20.0
SETTLE_S = 0.3
IDLE_STREAMS = 1000
Body = Callable[[str, int], dict[str, object]]
Figures = dict[tuple[str, str], float]
"""(what, unit) → value of one run."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One kind of load of `ours` and its peers; ours stands for lmi-chat in the report.

    `ask` is path, kind of answer and body; `own` is what ours is asked where it differs.
    """

    name: str
    ask: tuple[str, str, Body]
    own: tuple[str, str, Body] | None = None
    ours: str = OURS
    peers: tuple[str, ...] = (SERVE, RUST)
    streams: int
    rounds: int = 1
    tokens: int = TOKENS
    step_ms: float = STEP_MS
    is_rate: bool = False  # tokens a second matter
    is_intake: bool = False  # requests count, not tokens


def _streamed(text: str, tokens: int) -> dict[str, object]:
    return traffic.chat(text, tokens, stream=True)


def _told(text: str, tokens: int) -> dict[str, object]:
    """What the template makes of `_called`, by a message of its own."""
    system = {"role": "system", "content": "".join(f"{name}: {said}\n" for name, said in traffic.TOOLS)}
    body = traffic.chat(text, tokens, stream=True)
    return {**body, "messages": [system, {"role": "user", "content": text}]}


def _called(text: str, tokens: int) -> dict[str, object]:
    return traffic.chat(text, tokens, stream=True, tools=[traffic.tool(*each) for each in traffic.TOOLS])


def _reasoned(text: str, tokens: int) -> dict[str, object]:
    return traffic.chat(text, tokens, stream=True, chat_template_kwargs={"enable_thinking": True})


def _short(_: str, tokens: int) -> dict[str, object]:
    return traffic.chat("What is the capital of France? Answer in one word.", tokens)


CHAT = (traffic.CHAT, "events", _streamed)
MEASURES = (
    *(Measure(name=f"chat streamed, {n} at once", ask=CHAT, streams=n) for n in (64, 32, 8, 1)),
    Measure(
        name="log_prob streamed, 64 at once",
        ask=(traffic.COMPLETION, "events", traffic.completion),
        own=(traffic.STANDARD, "lines", traffic.standard),
        streams=64,
    ),
    Measure(
        name="chat with tools streamed, 64 at once",
        ours=TOOLS,
        peers=(GENERAL,),
        ask=(traffic.CHAT, "events", _told),
        own=(traffic.CHAT, "events", _called),
        streams=64,
    ),
    Measure(
        name="chat with reasoning streamed, 64 at once",
        ours=REASONING,
        peers=(GENERAL,),
        ask=(traffic.CHAT, "events", _reasoned),
        streams=64,
    ),
    Measure(name="chat whole, 64 at once", ask=(traffic.CHAT, "whole", traffic.chat), streams=64),
    Measure(
        name="intake of a short chat",
        ask=(traffic.CHAT, "whole", _short),
        streams=16,
        rounds=40,
        tokens=1,
        step_ms=1,
        is_intake=True,
    ),
    # what a user pays for: a request and all that comes of it
    Measure(name="answer of 100 tokens, 64 at once", ask=CHAT, streams=64, rounds=4, tokens=100, is_intake=True),
    # a token for each of 64 streams every 0.25 ms is more than any of the servers can write through one core
    Measure(name="chat streamed, saturated", ask=CHAT, streams=64, tokens=2000, step_ms=0.25, is_rate=True),
)


def warm_up(measure: Measure) -> Measure:
    """The same load, small: what is imported or made once is there afterwards."""
    return replace(measure, tokens=min(measure.tokens, 30), streams=min(measure.streams, 16), rounds=1)


class Load:
    """The load generator, compiled once, with a folder for its files."""

    def __init__(self, folder: Path) -> None:
        """Compile it. Raises SystemExit where there is no C compiler."""
        self.folder = folder
        self.disturbed = (
            0.0  # the part of a run in which the server's core was busy with something else, at its highest
        )
        self.program = folder / "load"
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            raise SystemExit("make bench needs a C compiler; on Debian and Ubuntu: apt-get install gcc libc6-dev")
        source = str(Path(__file__).with_name("load.c"))
        subprocess.run([compiler, "-O2", "-o", str(self.program), source], check=True)

    def command(self, server: Server, measure: Measure, kept: Path | None) -> list[str]:
        """What asks `server` for `measure`; the answers are kept in the folder `kept`."""
        path, kind, body = self.asked(server, measure)
        files = []
        for place in range(min(measure.streams, len(traffic.PROMPTS))):
            file = self.folder / f"request-{place}"
            file.write_bytes(traffic.request(path, body(traffic.prompt(place), measure.tokens)))
            files.append(str(file))
        counts = [str(server.port), str(measure.streams), str(measure.rounds), kind]
        return [str(self.program), *counts, str(kept or "-"), *files]

    def asked(self, server: Server, measure: Measure) -> tuple[str, str, Body]:
        """Path, kind of answer and body."""
        return (measure.own if server.name == measure.ours else None) or measure.ask

    def run(self, server: Server, measure: Measure) -> tuple[Figures, list[str]]:
        """One run → its figures, and each stream's text. Raises SystemExit where an answer is wrong."""
        kept = self.folder / "answers"
        kept.mkdir(exist_ok=True)
        command = self.command(server, measure, kept)
        server.engine.pace(measure.step_ms)
        with server.turn(), on_core(LOAD_CORE):
            time.sleep(SETTLE_S)
            before, busy_s, began = server.cpu_s(), servers.busy_s(), time.monotonic()
            with instructions(server) as counted:
                done = subprocess.run(command, capture_output=True, check=False, timeout=300)
            cpu_s = server.cpu_s() - before
            busy_s = servers.busy_s() - busy_s
        self.disturbed = max(self.disturbed, (busy_s - cpu_s) / (time.monotonic() - began))
        if done.returncode:
            raise SystemExit(f"{server.name}, {measure.name}: {done.stderr.decode()}")
        found = json.loads(done.stdout)
        if found["failed"]:
            raise SystemExit(f"{server.name}, {measure.name}: {(kept / '0').read_text()[:1000]}")
        try:
            texts = traffic.texts(kept, self.asked(server, measure)[1], measure.streams)
        except (ValueError, KeyError, IndexError) as error:
            raise SystemExit(f"{server.name}, {measure.name}: {error!r}") from error
        return _figures(measure, found, cpu_s, counted), texts

    def idle_bytes(self, server: Server) -> float:
        """Resident memory that one open stream costs, which has had its first token and waits for the next."""
        measure = Measure(name="idle", ask=CHAT, streams=IDLE_STREAMS, tokens=600, step_ms=1000)
        command = self.command(server, measure, None)
        server.engine.pace(measure.step_ms)
        with server.turn():
            before = server.resident_bytes()
            with on_core(LOAD_CORE):
                load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            assert load.stderr  # noqa: S101 a pipe was asked for
            load.stderr.readline()
            time.sleep(2)
            cost = (server.resident_bytes() - before) / IDLE_STREAMS
            load.kill()
            load.wait()
            load.stderr.close()
            time.sleep(3)  # the requests are given up
        return cost


def _figures(measure: Measure, found: dict[str, Any], cpu_s: float, counted: list[float]) -> Figures:
    if measure.is_intake:
        return {("CPU", "µs/request"): cpu_s * 1e6 / found["answers"], ("answer p50", "ms"): found["whole_ms"]["p50"]}
    tokens = measure.streams * measure.rounds * measure.tokens
    figures = {("CPU", "µs/token"): cpu_s * 1e6 / tokens}
    if counted:
        figures["instructions", "1/token"] = counted[0] / tokens
    if measure.is_rate:
        figures["rate", "tokens/s"] = tokens / found["seconds"]
        figures["pause p99", "ms"] = found["pause_ms"]["p99"]
        figures["events in a read", "events"] = found["events"] / found["reads"]
    if found["chunks"]:
        figures["tokens in an event", "tokens"] = tokens / found["events"]
        figures["events in a chunk", "events"] = found["events"] / found["chunks"]
        for quantile in ("p50", "p99", "max") if measure.is_rate else ("p50", "p99"):
            figures[f"gap {quantile}", "ms"] = found["gap_ms"][quantile]
    for quantile in ("p50", "p99"):
        figures[f"first byte {quantile}", "ms"] = found["first_ms"][quantile]
    return figures


def has_counter() -> bool:
    """Whether this machine counts instructions."""
    perf = shutil.which("perf")
    if not perf:
        return False
    done = subprocess.run([perf, "stat", "-x,", "-e", "instructions", "true"], capture_output=True, check=False)
    return done.returncode == 0 and done.stderr[:1].isdigit()


@contextlib.contextmanager
def instructions(server: Server) -> Iterator[list[float]]:
    """Count the server's instructions for as long; the list stays empty where the machine has no counter."""
    counted: list[float] = []
    if not COUNTS:
        yield counted
        return
    words = ["perf", "stat", "-x,", "-e", "instructions", "-p", str(server.process.pid)]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as perf:
        time.sleep(SETTLE_S)
        yield counted
        perf.send_signal(signal.SIGINT)
        text = perf.communicate()[1]
    counted.append(float(text.split(b",")[0]))


COUNTS = has_counter()
