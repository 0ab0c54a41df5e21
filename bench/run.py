"""The API process alone, ours and its peers': CPU per token, latency, rate, memory, on a stand-in engine.

    python bench/run.py [--runs 3] [--servers "lmi-chat,vllm serve"] [--only "64 at once|intake"] [--history FILE]

Each server runs on core 0 before an engine of its own that has no model (fake_engine.py); engines and the load
generator (load.c) have core 1. One is measured at a time, the others are stopped; the order turns round with each run.
CPU is that of all threads from the first request to the last answer, ÷ tokens: taking the requests in is part of it.
Every answer of every run is read whole, each event of it parsed by itself, and the texts must be the same everywhere.
Prints a table, each value with its lowest and highest run, adds a line to bench/history.jsonl and draws the report.
"""

import argparse
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from bench import draw, history, measures, servers
from bench.chart import number
from bench.history import OURS, Figure
from bench.measures import MEASURES, Load, Measure
from bench.servers import Server

IDLE = ("1,000 idle streams: memory of one", "KiB")
DISTURBED = 0.1
FILES = 8192  # open at once: 1,000 streams have two ends
Values = dict[tuple[str, str], dict[str, list[float]]]
"""(measure, unit) → server → a value for each run."""


def measure_all(found: list[Server], load: Load, chosen: list[Measure], runs: int) -> Values:
    """All measures of all servers, run after run. Raises SystemExit where an answer is wrong."""
    values: Values = {}
    for server in found:
        for measure in chosen:
            if server.name in (measure.ours, *measure.peers):
                load.run(server, measures.warm_up(measure))
        if chosen == list(MEASURES) and server.name in servers.PLAIN:  # first: later there is memory left free
            values.setdefault(IDLE, {})[server.name] = [load.idle_bytes(server) / 1024]
    for run in range(runs):
        for measure in chosen:
            began, texts = time.monotonic(), {}
            asked = [server for server in found if server.name in (measure.ours, *measure.peers)]
            for server in asked if run % 2 == 0 else asked[::-1]:
                name = OURS if server.name == measure.ours else server.name
                figures, texts[name] = load.run(server, measure)
                for (what, unit), value in figures.items():
                    values.setdefault((f"{measure.name}: {what}", unit), {}).setdefault(name, []).append(value)
            if texts:
                compare(measure, texts)
            print(f"run {run + 1} of {runs}: {measure.name}, {time.monotonic() - began:.0f} s", flush=True)
    return values


def compare(measure: Measure, texts: dict[str, list[str]]) -> None:
    """All servers gave the same text to the same request. Raises SystemExit."""
    (first, expected), *others = texts.items()
    for name, found in others:
        for place, (one, other) in enumerate(zip(expected, found, strict=True)):
            if one != other:
                pairs = enumerate(zip(one, other, strict=False))
                at = next((k for k, (a, b) in pairs if a != b), min(len(one), len(other)))
                around = f"{one[max(0, at - 20) : at + 20]!r} and {other[max(0, at - 20) : at + 20]!r}"
                raise SystemExit(f"{measure.name}: {first} and {name} differ in text {place} at {at}: {around}")


def table(results: Mapping[str, Mapping[str, Figure]], names: list[str]) -> str:
    """Rows of measures; a column per server, and how many times as much each peer has as the first one."""
    first, *peers = names
    rows = [["", "", *names, *(f"{peer} ÷ {first}" for peer in peers)]]
    for what, found in results.items():
        own = found[first].median if first in found else 0
        shown = [_spread(found.get(name)) for name in names]
        ratios = [f"{found[peer].median / own:.2f}" if own and peer in found else "–" for peer in peers]
        rows.append([what, next(iter(found.values())).unit, *shown, *ratios])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _spread(figure: Figure | None) -> str:
    return f"{number(figure.median)} ({number(figure.low)}–{number(figure.high)})" if figure else "–"


def main() -> None:
    """Read the options, measure, print and keep."""
    parser = argparse.ArgumentParser(description="Measure the API process alone.", allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--servers", default=",".join(servers.SERVERS), help="by name, separated by commas")
    parser.add_argument("--only", default="", help="a regex: measures whose name has it")
    parser.add_argument("--history", type=Path, default=history.FILE, help="where the line goes")
    known = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    chosen = [measure for measure in MEASURES if re.search(known.only, measure.name)]
    limit = max(FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        load = Load(folder)
        with servers.running(known.servers.split(","), folder) as found:
            values = measure_all(found, load, chosen, known.runs)
    results = {
        what: {name: history.figure(runs, unit) for name, runs in by_server.items()}
        for (what, unit), by_server in values.items()
    }
    names = dict.fromkeys(name for by_server in results.values() for name in by_server)
    print(f"\n{table(results, sorted(names, key=lambda name: name != OURS))}\n")
    if not measures.COUNTS:
        print("instructions: not counted here (perf stat -e instructions has no counter)")
    if load.disturbed > DISTURBED:
        print(
            f"the servers' core was busy with something else up to {load.disturbed:.0%} of a run: figures are too high"
        )
    history.append(results, known.history)
    if known.history == history.FILE:
        draw.update()


if __name__ == "__main__":
    main()
