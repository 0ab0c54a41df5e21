"""The newest figures as a drawing in SVG, light or dark: a group of bars for each measure that has a goal."""

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from bench.history import MEASURES, OURS, Figure, Goal, Results, Servers

WIDTH, MARGIN, LEFT, LONGEST = 860, 20, 190, 500
TITLE, BAR, ROW, GAP = 44, 14, 20, 18
STYLE = """
.ground { fill: #ffffff } text { font: 13px system-ui, "Segoe UI", sans-serif; fill: #1f2937 }
.title { font-weight: 600 } .quiet { fill: #6b7280 } .met { fill: #15803d } .missed { fill: #b91c1c; font-weight: 600 }
.ours { fill: #2563eb } .peer { fill: #9ca3af } .spread { stroke: #1f2937 } .goal { stroke: #c2410c; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #9198a1 } .met { fill: #4ade80 }
.missed { fill: #f87171 }
.ours { fill: #60a5fa } .peer { fill: #57606a } .spread { stroke: #e6edf3 } .goal { stroke: #fb923c }
}
"""
WORDS = {True: "met", False: "missed", None: "not measured"}
CLASSES = {True: "met", False: "missed", None: "quiet"}


def svg(results: Results) -> str:
    """The drawing of these results; a measure without a goal, or without ours, is left to the table."""
    drawn = [(name, results[name]) for name in MEASURES if MEASURES[name] and OURS in results.get(name, {})]
    root = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
    ET.SubElement(root, "title").text = "What lmi-chat needs, beside others"
    ET.SubElement(root, "style").text = STYLE
    ground = ET.SubElement(root, "rect", {"class": "ground"}, width=str(WIDTH))
    y = MARGIN
    for name, servers in drawn:
        y = _group(root, name, servers, y)
    _line(root, "goal", MARGIN + 4, y - 2, y + 12)
    _text(
        root,
        "goal · bars are medians, the thin lines on them go from the lowest run to the highest",
        MARGIN + 14,
        y + 10,
        "quiet",
    )
    height = str(y + MARGIN + 8)
    root.set("viewBox", f"0 0 {WIDTH} {height}")
    root.set("width", str(WIDTH))
    root.set("height", height)
    ground.set("height", height)
    return ET.tostring(root, encoding="unicode") + "\n"


def number(value: float) -> str:
    """Three digits, thousands with commas."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"  # noqa: PLR2004 where commas begin


def goal_words(goal: Goal, servers: Servers) -> str:
    """Such as `at most 0.33 of vllm serve`, `at least 2.4 times vllm serve`, `at most 10 ms`."""
    bound = f"{'at most' if goal.is_most else 'at least'} {number(goal.factor)}"
    if not goal.peer:
        unit = servers[OURS].unit if OURS in servers else ""
        return f"{bound} {unit}".strip()
    return f"{bound} {'of' if goal.factor < 1 else 'times'} {goal.peer}"


def _group(root: ET.Element, name: str, servers: Servers, y: int) -> int:
    """One measure, from `y` down; gives where the next one begins."""
    goals = MEASURES[name]
    _text(root, name, MARGIN, y + 14, "title")
    held = _text(root, "", MARGIN, y + 32, "quiet")
    for goal in goals:
        is_met = goal.is_met(servers)
        ET.SubElement(held, "tspan").text = f"{goal_words(goal, servers)}: "
        ET.SubElement(held, "tspan", {"class": CLASSES[is_met]}).text = WORDS[is_met]
        ET.SubElement(held, "tspan").text = "" if goal is goals[-1] else " · "
    bounds = [*_bounds(goals, servers)]
    scale = LONGEST / (max(*(figure.high for figure in servers.values()), *bounds, 0) or 1)
    top = y + TITLE
    for row, server in enumerate(sorted(servers, key=lambda server: server != OURS)):
        _bar(root, server, servers[server], top + row * ROW, scale)
    bottom = top + len(servers) * ROW
    for bound in bounds:
        _line(root, "goal", LEFT + bound * scale, top - 3, bottom - ROW + BAR + 3)
    return bottom + GAP


def _bar(root: ET.Element, server: str, figure: Figure, y: int, scale: float) -> None:
    """The server's name, its median as a bar with the extremes on it, and the number."""
    kind = "ours" if server == OURS else "peer"
    _text(root, server, LEFT - 10, y + 12, "", anchor="end")
    place = {"x": str(LEFT), "y": str(y), "width": f"{figure.median * scale:.1f}", "height": str(BAR), "rx": "2"}
    ET.SubElement(root, "rect", {"class": kind, **place})
    low, high, middle = LEFT + figure.low * scale, LEFT + figure.high * scale, y + BAR // 2
    ET.SubElement(root, "line", {"class": "spread"}, x1=f"{low:.1f}", x2=f"{high:.1f}", y1=str(middle), y2=str(middle))
    _text(root, f"{number(figure.median)} {figure.unit}", LEFT + LONGEST + 12, y + 12, "")


def _bounds(goals: tuple[Goal, ...], servers: Servers) -> Iterator[float]:
    """The goals in the measure's own unit."""
    for goal in goals:
        if not goal.peer:
            yield goal.factor
        elif goal.peer in servers:
            yield goal.factor * servers[goal.peer].median


def _text(root: ET.Element, text: str, x: int, y: int, kind: str, anchor: str = "start") -> ET.Element:
    found = ET.SubElement(root, "text", {"class": kind, "x": str(x), "y": str(y), "text-anchor": anchor})
    found.text = text
    return found


def _line(root: ET.Element, kind: str, x: float, top: int, bottom: int) -> None:
    ET.SubElement(root, "line", {"class": kind}, x1=f"{x:.1f}", x2=f"{x:.1f}", y1=str(top), y2=str(bottom))
