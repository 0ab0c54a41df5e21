"""docs/performance.md and its drawing are made from the benchmarks' history."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import draw, history, measures, rust_frontend
from bench.chart import svg
from bench.history import BARE, MEASURES, OURS, RUST, SERVE, Figure, Goal, Results, figure

SVG = "{http://www.w3.org/2000/svg}"


def bars(drawing: ET.Element, kind: str) -> list[float]:
    """The lengths of the bars of a kind, in the drawing's units."""
    return [float(each.get("width", "")) for each in drawing.iter(f"{SVG}rect") if each.get("class") == kind]


def us(*values: float) -> Figure:
    return figure([*values], "µs/token")


CHAT, GAP = "chat streamed, 64 at once: CPU", "chat streamed, saturated: gap p99"
FIRST: Results = {CHAT: {OURS: us(20, 22, 30), SERVE: us(40), RUST: us(16)}}
SECOND: Results = {
    CHAT: {OURS: us(10, 9, 12), SERVE: us(40, 38, 41), RUST: us(16)},
    "log_prob streamed, 64 at once: CPU": {OURS: us(16), SERVE: us(100)},
    GAP: {OURS: figure([12, 8, 16], "ms")},
    "made <up> & new": {OURS: figure([1234567], "things/s")},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A history of two runs."""
    for results in (FIRST, SECOND):
        history.append(results, tmp_path / "history.jsonl", model="made-up")
    return tmp_path / "history.jsonl"


def test_the_page_has_what_the_history_has() -> None:
    runs = history.runs()
    assert f"{draw.BEGIN}\n{draw.report(runs)}\n{draw.END}\n" in draw.PAGE.read_text()
    assert draw.DRAWING.exists() == bool(runs)
    if runs:
        assert draw.DRAWING.read_text() == svg(draw.newest(draw.drawn(runs)))


def test_a_run_is_kept_as_it_was(file: Path) -> None:
    first, second = history.runs(file)
    assert (first.results, second.results) == (FIRST, SECOND)
    assert second.versions["model"] == "made-up"
    assert second.machine == first.machine


def test_no_history_is_said_in_a_sentence(tmp_path: Path) -> None:
    page, drawing = tmp_path / "page.md", tmp_path / "page.svg"
    page.write_text(f"before\n{draw.BEGIN}{draw.END}\nafter\n")
    draw.update(tmp_path / "none.jsonl", page, drawing)
    assert page.read_text() == f"before\n{draw.BEGIN}\n{draw.NONE}\n{draw.END}\nafter\n"
    assert not drawing.exists()


def test_a_page_without_marks_is_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"prose\n{draw.BEGIN}\nprose\n")
    with pytest.raises(ValueError, match="has no"):
        draw.update(tmp_path / "none.jsonl", page, tmp_path / "page.svg")
    assert page.read_text() == f"prose\n{draw.BEGIN}\nprose\n"


def test_the_newest_figures_with_their_ratios_and_goals(file: Path, tmp_path: Path) -> None:
    page, drawing = tmp_path / "page.md", tmp_path / "page.svg"
    page.write_text(draw.BEGIN + draw.END)
    draw.update(file, page, drawing)
    rows = page.read_text().splitlines()
    assert {CHAT, GAP} < MEASURES.keys()
    own = f"| {CHAT} | 10 µs/token (9–12) | {SERVE} | 40 µs/token (38–41) |"
    assert f"{own} 0.25 | at most 0.333 of {SERVE} | met |" in rows
    assert f"|  |  | {RUST} | 16 µs/token | 0.625 | at most 0.7 of {RUST} | met |" in rows
    assert f"| {GAP} | 12 ms (8–16) |  |  |  | at most 10 ms | **missed** |" in rows
    assert "| made <up> & new | 1,230,000 things/s |" in rows
    past = [row for row in rows if row.startswith(f"| {history.runs(file)[0].when[:4]}")]
    assert [row.split(" | ")[3] for row in past] == ["10 µs/token", "22 µs/token"], "the newest comes first"
    assert drawing.exists()


def test_what_has_a_goal_is_measured() -> None:
    loads = {measure.name for measure in measures.MEASURES} | {f"{measures.IDLE_STREAMS:,} idle streams"}
    kinds = ("real engine, ", "one layer, ")
    assert {name.partition(":")[0] for name in MEASURES if not name.startswith(kinds)} <= loads


def test_the_drawing_is_well_formed_and_to_scale() -> None:
    drawing = ET.fromstring(svg(SECOND))  # noqa: S314 our own drawing
    assert len(bars(drawing, "ours")) == 3, "what has no goal is left to the table"
    chat_serve, chat_rust, _ = bars(drawing, "peer")
    assert bars(drawing, "ours")[0] / chat_serve == pytest.approx(10 / 40, abs=0.01)
    assert chat_rust / chat_serve == pytest.approx(16 / 40, abs=0.01)
    text = "".join(drawing.itertext())
    assert "at most 10 ms: missed" in text
    assert "prefers-color-scheme: dark" in text
    width, height = (float(drawing.get(side, "")) for side in ("width", "height"))
    for each in drawing.iter(f"{SVG}text"):
        assert 0 <= float(each.get("x", "")) < width
        assert 0 < float(each.get("y", "")) < height


def test_a_machine_has_a_section_of_its_own() -> None:
    runs = [
        history.Run("2026-01-01", "aa", "a GPU", {}, SECOND),
        history.Run("2026-01-02", "bb", "two cores", {}, FIRST),
    ]
    report = draw.report(runs)
    assert report.index("### two cores") < report.index("### a GPU") < report.index("performance.svg")
    assert draw.newest(draw.drawn(runs)) == SECOND


@pytest.mark.parametrize(
    ("goal", "is_met"),
    [
        (Goal(0.5, SERVE), True),
        (Goal(0.24, SERVE), False),
        (Goal(0.25, SERVE, is_most=False), True),
        (Goal(0.26, SERVE, is_most=False), False),
        (Goal(10), True),
        (Goal(9.9), False),
        (Goal(1, BARE), None),
    ],
)
def test_goals(goal: Goal, *, is_met: bool | None) -> None:
    assert goal.is_met(SECOND[CHAT]) is is_met


PROGRAM = f"""#!{sys.executable}
import json, os, socket, sys
words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
found = {{}}
for name, word in words.items():
    if name.endswith("-fd"):
        listener = socket.socket(fileno=int(word))
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        found[name] = listener.getsockname()
print(json.dumps([os.getpid(), sys.argv[1], found, json.loads(words["--args-json"])]))
"""


def test_the_rust_frontend_is_given_sockets_that_listen(tmp_path: Path) -> None:
    program, model = tmp_path / "vllm-rs", tmp_path / "model"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    words = rust_frontend.command(model, f"ipc://{tmp_path}/in", "tcp://127.0.0.1:0", 0, served_model_name=["x"])
    environment = {**os.environ, "VLLM_RUST_FRONTEND_PATH": str(program)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as process:
        pid, mode, sockets, arguments = json.loads(process.communicate(timeout=30)[0])
    assert (pid, mode) == (process.pid, "frontend"), "the process becomes the program"
    assert sockets["--input-listener-fd"] == f"{tmp_path}/in"
    assert [sockets[name][0] for name in ("--output-listener-fd", "--listen-fd")] == ["127.0.0.1"] * 2
    assert arguments == {"served_model_name": ["x"], "model": str(model), "model_tag": str(model)}
