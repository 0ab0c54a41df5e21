"""Checks the wheel alone in a fresh environment, without an engine: `make wheel-test` builds and installs it first."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / "build" / "wheel" / "venv" / "bin" / "lmi-chat"


def run(place: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """The command far from the repository, so that only what is installed is found."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(place)}
    command = [str(COMMAND), *words]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_its_version_is_the_projects(tmp_path: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run(tmp_path, "--version").stdout == f"lmi-chat {version}\n"


def test_settings_are_explained_without_an_engine(tmp_path: Path) -> None:
    done = run(tmp_path, "explain-config", "--port", "9000")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("port ")] == [
        ["port", "9000", "command", "line"]
    ]


def test_it_has_the_files_of_the_console(tmp_path: Path) -> None:
    code = "from lmi_chat.console.files import read_page; print(*read_page())"
    done = subprocess.run(
        [COMMAND.with_name("python"), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert {*done.stdout.split()} == {path.name for path in (ROOT / "lmi_chat" / "console" / "page").iterdir()}


@pytest.mark.parametrize("words", [(), ("--model-id", ".")], ids=["the default model", "a model"])
def test_a_start_without_an_engine_ends_with_a_sentence(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(tmp_path, "serve", "--host", "127.0.0.1", "--port", "0", *words)
    assert done.returncode == 1
    assert "fetch" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "lmi-chat: no engine is installed (No module named 'vllm'); `make install` installs one"
    )
