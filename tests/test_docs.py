"""README.md and docs/: short enough for a newcomer, links and names that lead somewhere, no block that nothing runs.

Blocks with an output below them are run by tests/real/test_readme.py; the others are run here, with programs in place
of make, docker and aws that only take notes.
"""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name
from starlette.routing import Route, WebSocketRoute

from lmi_chat.cli.directory import find_formatters
from lmi_chat.console.recorder import Console
from lmi_chat.http import app
from lmi_chat.http.state import AppState
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from tests.cli.test_djl_serving import running
from tests.pipeline.test_pipeline import answered, opened
from tests.support import pages
from tests.support.pages import Block
from tests.test_makefile import script

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
CLI = (ROOT / "lmi_chat" / "cli" / "main.py").read_text()
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()


def test_the_readme_is_for_a_newcomer() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (page.parent / target if target else page).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_that_are_named_are_there(page: str) -> None:
    """A name with a folder is a path below the repository or a folder of `lmi_chat/`."""
    folders = [path for path in (ROOT / "lmi_chat").rglob("*") if path.is_dir()]
    bases = (ROOT, ROOT / "shim", ROOT / "lmi_chat", *folders)
    for name in re.findall(r"`([\w/]+/[\w.]*)`", (ROOT / page).read_text()):
        if not name.startswith("/"):
            assert any((base / name).exists() for base in bases), name


def test_every_route_is_on_its_page() -> None:
    house = AppState(pipeline=Pipeline(PipelineConfig()), health=StartupProgress(), max_body_bytes=1, is_tgi=True)
    house.console = Console(1)
    [section] = re.findall(r"^## Every route$(.*?)^## ", pages.PAGES["docs/sagemaker.md"], re.MULTILINE | re.DOTALL)
    shown = set(re.findall(r"(/[\w/.{}-]+)", section))
    routes = {
        re.sub(r"(/openai/v1/).*", r"\1", route.path).replace(":path", "")
        for route in app.build(house).routes
        if isinstance(route, Route | WebSocketRoute)
    }
    assert {path for path in routes if "/adapters/" not in path} == shown | {"/"}
    assert "`POST /`" in section


def test_every_fault_names_a_test_that_exists() -> None:
    page = pages.PAGES["docs/faults.md"]
    held = [
        line.split("|")[-2].strip() for line in page.splitlines() if line.startswith("| ") and "held by" not in line
    ]
    assert len(held) == 67
    for name in held:
        [(path, test)] = re.findall(r"^`([\w/]+\.py)::(test_\w+)`$", name)
        source = ast.parse((ROOT / "tests" / path).read_text())
        functions = (node for node in source.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        assert test in {function.name for function in functions}, name


def test_no_block_is_run_by_nothing() -> None:
    """A new one is an example with its output, or finds its test below."""
    found = {(block.page, block.language or "drawing") for block in pages.OTHERS}
    assert found == {
        ("docs/quickstart.md", "text"),
        ("docs/architecture.md", "drawing"),
        ("docs/clients.md", "toml"),  # tests/http/test_codex.py runs it
        ("docs/clients.md", "json"),  # and tests/http/test_opencode.py this one
    }
    assert {block.page for block in pages.MODULES} == {
        "docs/djl.md",
        "docs/testing.md",
    }  # tests/testing runs the latter
    assert sum(map(len, (pages.EXAMPLES, pages.COMMANDS, pages.MODULES, pages.OTHERS))) == len(pages.BLOCKS)
    fences = sum(len(re.findall(r"^```", text, re.MULTILINE)) for text in pages.PAGES.values())
    assert fences == 2 * (len(pages.BLOCKS) + len(pages.EXAMPLES)), "a fence that the pattern of blocks does not see"


def notes_of(block: Block, folder: Path) -> list[list[str]]:
    """The words of each call of make, docker and aws; `python` is this one, and the folder is the repository's.

    One write a call: the two sides of a pipe run at once.
    """
    log = folder / "log"
    log.touch()
    for name in ("make", "docker", "aws"):
        script(folder / "bin" / name, f"printf '%s\\n' \"$(printf '%s\\t' {name} \"$@\")\" >> {log}")
    script(folder / "bin" / "python", f'exec {sys.executable} "$@"')
    given = pages.environment(0) | {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "role": "arn:aws:iam::1:role/r"}
    words = ["bash", "-euo", "pipefail", "-c", block.code]
    subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT, env=given, timeout=60)
    return [line.split("\t")[:-1] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("block", [block for block in pages.COMMANDS if "djl-serving" not in block.code], ids=str)
def test_commands_name_what_there_is(block: Block, tmp_path: Path) -> None:
    notes = notes_of(block, tmp_path)
    assert notes or "examples/deploy.py" in block.code
    for program, *words in notes:
        match program, words:
            case "make", [target]:
                assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE)
            case "docker", ["build", *options]:
                given = dict(zip(options[::2], options[1::2], strict=False))
                assert (ROOT / given["--file"]).samefile(ROOT / "docker" / "Dockerfile")
                assert f" AS {given['--target']}\n" in DOCKERFILE
                assert given["--tag"] == f"lmi-chat:{given['--target']}"
            case "docker", ["run", *_, image, command]:
                assert re.search(rf"^FROM \S+ AS {image.removeprefix('lmi-chat:')}$", DOCKERFILE, re.MULTILINE)
                assert f'commands.add_parser("{command}"' in CLI or f'("{command}", ' in CLI
            case "docker", [command, *_]:
                assert command in {"login", "tag", "push"}
            case "aws", [service, command, *options]:
                aws_takes(service, command, [word for word in options if word.startswith("--")])
                files = [word.removeprefix("file://") for word in options if word.startswith("file://")]
                assert all((ROOT / name).is_file() for name in files)
            case _:
                raise AssertionError((program, words))


def aws_takes(service: str, command: str, options: list[str]) -> None:
    """Check a command against the service's model, of which the command line is made."""
    if command == "get-login-password":  # the command line's own
        return
    model = botocore.session.get_session().get_service_model(service)
    operation = {xform_name(name, "-"): name for name in model.operation_names}[command]
    shape = model.operation_model(operation).input_shape
    members = {f"--{xform_name(name, '-')}" for name in shape.members} if shape else set()
    assert {option for option in options if option not in {"--query", "--output"}} <= members


async def test_djls_formatters_read_and_write(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(module("input_formatter"))
    line, engine = await opened(formatters=find_formatters(tmp_path))
    assert json.loads((await answered(line, {"question": "why?"})).data) == {"answer": "Hello!"}
    assert "why?" in engine.jobs[-1].prompt_text


def test_djl_serving_serves_a_handler(tmp_path: Path) -> None:
    [block] = [block for block in pages.COMMANDS if "djl-serving" in block.code]
    [command, directory, *options] = shlex.split(pages.here(block.code, 0).replace(f"{sys.executable} -m ", ""))
    assert (command, options) == ("lmi_chat.cli.djl_serving", ["--port", "0"])
    folder = tmp_path / directory
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(module("def handle"))
    with running(folder) as served:
        status, _, data = served.post({"inputs": "four"})
    assert (status, json.loads(data)) == (200, {"characters": 4})


def module(word: str) -> str:
    """The one Python block of docs/djl.md that has `word`, and no output."""
    [code] = [block.code for block in pages.MODULES if block.page == "docs/djl.md" and word in block.code]
    ast.parse(code)
    return code
