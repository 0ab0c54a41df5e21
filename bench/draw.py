"""docs/performance.md's figures and its drawing, made from history.jsonl: `make bench` and `make bench-real` end here.

python bench/draw.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from bench import history
from bench.chart import WORDS, goal_words, number, svg
from bench.history import MEASURES, OURS, Figure, Goal, Results, Run, Servers

DOCS = history.ROOT / "docs"
PAGE, DRAWING = DOCS / "performance.md", DOCS / "performance.svg"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
MOST_RUNS, MOST_MACHINES = 20, 3
HELD = {name for name, goals in MEASURES.items() if goals}
NONE = "No run has been kept yet: `make bench` and `make bench-real` write their figures here."


def update(file: Path = history.FILE, page: Path = PAGE, drawing: Path = DRAWING) -> None:
    """Write what the history has into the page, between its marks, and the drawing beside it. Raises ValueError."""
    runs = history.runs(file)
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{page} has no {BEGIN} … {END}")
    page.write_text(f"{before}{begin}\n{report(runs)}\n{end}{after}", encoding="utf-8")
    if runs:
        drawing.write_text(svg(newest(drawn(runs))), encoding="utf-8")


def newest(runs: list[Run]) -> Results:
    """Each measure as the last run that has it found it."""
    return {measure: servers for run in runs for measure, servers in run.results.items()}


def drawn(runs: list[Run]) -> list[Run]:
    """The runs of the machine that has the most measures with a goal, of equal ones the newest."""
    return max(_machines(runs), key=lambda own: len(newest(own).keys() & HELD))


def report(runs: list[Run]) -> str:
    """The generated part of the page: what the last machines found, and our own figures over time."""
    if not runs:
        return NONE
    shown = [*_machines(runs)][:MOST_MACHINES]
    parts = [line for own in shown for line in _section(own, is_drawn=own == drawn(runs))]
    return "\n".join([*parts, *_past(runs)])


def _machines(runs: list[Run]) -> Iterator[list[Run]]:
    """The runs of each machine, oldest first; the machine of the last run first."""
    for machine in dict.fromkeys(run.machine for run in reversed(runs)):
        yield [run for run in runs if run.machine == machine]


def _section(runs: list[Run], *, is_drawn: bool) -> Iterator[str]:
    """One machine's figures."""
    found = newest(runs)
    names = [name for name in MEASURES if name in found]
    yield from (f"### {runs[0].machine}", "")
    if is_drawn:
        yield from ("![the figures below as bars, with the goals](performance.svg)", "")
    yield f"| measured | {OURS} | beside | figure | ratio | goal | |"
    yield "|---|---|---|---|---|---|---|"
    for name in names:
        yield from _rows(name, found[name])
    yield from ("", *_sources(runs), "")
    others = {name: servers for name, servers in found.items() if name not in MEASURES}
    if others:
        yield from (
            "<details><summary>What was measured beside these</summary>",
            "",
            *_others(others),
            "",
            "</details>",
            "",
        )


def _rows(name: str, servers: Servers) -> Iterator[str]:
    """A line for ours and each peer or goal of one measure."""
    title, goals = name, MEASURES[name]
    own = _shown(servers.get(OURS))
    peers = {goal.peer: goal for goal in goals if goal.peer in servers}
    lines: list[tuple[str, str, Goal | None]] = [("", "", goal) for goal in goals if not goal.peer]
    lines += [(peer, _shown(servers[peer]), peers.get(peer)) for peer in servers if peer != OURS]
    lines += [(goal.peer, "", goal) for goal in goals if goal.peer and goal.peer not in servers]
    for peer, other, goal in lines or [("", "", None)]:
        ratio = Goal(0, peer).value(servers) if peer else None
        told = f"{goal_words(goal, servers)} | {_verdict(goal, servers)}" if goal else " | "
        yield f"| {title} | {own} | {peer} | {other} | {'' if ratio is None else number(ratio)} | {told} |"
        title = own = ""


def _verdict(goal: Goal, servers: Servers) -> str:
    is_met = goal.is_met(servers)
    return f"**{WORDS[is_met]}**" if is_met is False else WORDS[is_met]


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return ""
    spread = "" if figure.low == figure.high else f" ({number(figure.low)}–{number(figure.high)})"
    return f"{number(figure.median)} {figure.unit}{spread}"


def _others(found: Results) -> Iterator[str]:
    """A line for each measure, a column for each server."""
    servers = list(dict.fromkeys(server for each in found.values() for server in each))
    yield f"| measured | {' | '.join(servers)} |"
    yield "|---" * (1 + len(servers)) + "|"
    for name, each in found.items():
        yield f"| {name} | {' | '.join(_shown(each.get(server)) for server in servers)} |"


def _sources(runs: list[Run]) -> Iterator[str]:
    """Which run each figure of the table is from, told by what its measures begin with."""
    last = {name: run for run in runs for name in run.results}
    for run in runs:
        kinds = dict.fromkeys(name.partition(":")[0] for name in run.results if last[name] is run)
        if kinds:
            versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
            yield f"- {run.when} UTC, commit {run.commit}; {versions}: {'; '.join(kinds)}."


def _past(runs: list[Run]) -> Iterator[str]:
    """Our own figures of what has a goal, over time, newest first."""
    measured = newest(runs)
    kept = [name for name in MEASURES if name in HELD and name in measured]
    yield from (f"### {OURS} over time", "")
    yield f"| when | commit | machine | {' | '.join(kept)} |"
    yield "|---" * (3 + len(kept)) + "|"
    told = [run for run in runs if run.results.keys() & HELD]
    for run in told[: -MOST_RUNS - 1 : -1]:
        own = [run.results.get(name, {}).get(OURS) for name in kept]
        cells = " | ".join(f"{number(figure.median)} {figure.unit}" if figure else "" for figure in own)
        yield f"| {run.when} | {run.commit} | {run.machine} | {cells} |"


if __name__ == "__main__":
    update()
