"""HOUSE.md, "Direction": no arrow points backwards, and each outer library has one owner."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top down. A room imports itself and rooms of lower floors, never its neighbours.
FLOORS = (
    ("__main__", "model", "runner"),
    ("cli",),
    ("serve", "client"),
    ("http", "djl"),
    ("start",),
    ("explain",),
    ("settings", "embedded"),
    ("spool",),
    ("flow",),
    ("intake",),
    ("delivery", "hooks"),
    ("dialects", "engine", "store"),
    ("sessions", "fields", "observe"),
    ("names",),
    ("sources",),
    ("template", "bounds", "wire", "frames", "seats", "shelf", "folder", "families"),
    ("job",),
    ("errors", "health", "progress", "processes"),
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
OWNERS = {
    "vllm": {"engine"},
    "llguidance": {"engine"},
    "starlette": {"http", "serve"},
    "uvicorn": {"http", "serve"},
    "jinja2": {"template"},
    "transformers": {"template", "embedded"},
    "settings": {"cli", "runner", "serve", "djl", "start", "explain"},  # read at the top, handed down as values
}
FILES = [*sorted((ROOT / "lmi_chat").rglob("*.py")), *ROOT.glob("model.py")]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "lmi_chat" else parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0] if package == "lmi_chat" else package
        assert room in OWNERS.get(other, {room}), f"{room} imports {other}"
        if package == "lmi_chat" and other not in {"__version__", room}:
            assert FLOOR[other] > FLOOR[room], f"{room} imports {other}"


def test_the_line_needs_no_heavy_library() -> None:
    code = "import sys, lmi_chat.flow; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {*OWNERS, "torch", "tokenizers"} & {*done.stdout.split()}
