"""Check the direction of imports: no arrow points backwards, and each outer library has one owner."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top down. A folder imports itself and folders of lower floors, never its neighbours.
FLOORS = (
    ("__main__", "model"),
    ("cli", "testing"),
    ("djl",),
    ("server",),
    ("http",),
    ("async_requests", "console"),
    ("pipeline",),
    ("adapters",),
    ("dialects", "engine"),
    ("config", "storage"),
    ("observability", "chat_template", "template_trial", "media"),
    ("tokenization",),
    ("codec", "job", "fetching", "audio"),
    ("errors", "limits"),
    ("text", "confinement", "file_formats"),
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
OWNERS = {
    "vllm": {"engine"},
    "llguidance": {"engine"},
    "starlette": {"http", "server"},
    "uvicorn": {"http", "server"},
    "jinja2": {"chat_template"},
    "transformers": {"chat_template", "template_trial", "server"},
    "djl_python": {"djl"},
    "config": {"config", "cli", "djl", "server"},  # read at the top, handed down as values
}
# Inside `engine/`: the protocol and what needs no library stand beside the folder that owns them.
ENGINE_OWNER = "engine/vllm"
SHIM = sorted((ROOT / "shim").rglob("*.py"))
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_one_folder_imports_the_engine(path: Path) -> None:
    heavy = {name for name in imports(path) if name.partition(".")[0] in {"vllm", "llguidance", "zmq"}}
    assert not heavy or ENGINE_OWNER in path.as_posix(), f"{path} imports {heavy}"


@pytest.mark.parametrize("path", SHIM, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_shim_stands_by_itself(path: Path) -> None:
    ours = {name for name in imports(path) if name.partition(".")[0] == "lmi_chat"}
    assert not ours, f"{path} imports {ours}; lmi-chat's only part in it is the command"


def test_the_shim_is_there_and_imports_without_lmi_chat() -> None:
    names = [f"djl_python.{path.stem}" for path in SHIM if path.stem != "__init__"]
    assert {"djl_python.inputs", "djl_python.outputs"} <= {*names}
    code = f"import sys; sys.modules['lmi_chat'] = None; import {', '.join(names)}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "shim", check=True)


def modules() -> dict[str, Path]:
    def name(path: Path) -> str:
        return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    return {name(path): path for path in FILES}


def test_no_file_imports_itself_in_a_circle() -> None:
    known = modules()
    graph = {
        module: {
            found
            for name in imports(path)
            if (found := name if name in known else name.rpartition(".")[0]) in known and found != module
        }
        for module, path in known.items()
    }
    assert graph["lmi_chat.engine.vllm.engine"] >= {"lmi_chat.engine.vllm.fast_path.output_loop"}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_the_line_needs_no_heavy_library() -> None:
    code = "import sys, lmi_chat.pipeline.pipeline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {*OWNERS, "torch", "tokenizers"} & {*done.stdout.split()}
