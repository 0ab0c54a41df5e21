"""Checks djl-serving's wheel in a fresh environment, where lmi-chat stands for the command alone: `make wheel-test`."""

import os
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = ROOT / "build" / "wheel" / "shim-venv" / "bin"
MODULES = sorted(path.stem for path in (ROOT / "shim" / "djl_python").glob("[!_]*.py"))
# Whoever asks for lmi_chat meets an error, whether or not that would be caught.
IMPORTS = """
import importlib, sys

class Refused:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "lmi_chat":
            asked.append(name)
            raise ImportError(name)

asked = []
sys.meta_path.insert(0, Refused())
import djl_python
from djl_python import Input, Output, PairList
for name in sys.argv[1:]:
    importlib.import_module("djl_python." + name)
assert not asked, asked
print(djl_python.__file__)
"""


def run(place: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """A program of that environment, far from the repository, so that only what is installed is found."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(place)}
    command = [str(BIN / words[0]), *words[1:]]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_djl_python_is_whole_and_imports_nothing_of_lmi_chat(tmp_path: Path) -> None:
    done = run(tmp_path, "python", "-c", IMPORTS, *MODULES)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).is_relative_to(BIN.parent / "lib")


def test_what_it_needs_is_its_own_and_what_it_says(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "shim" / "pyproject.toml").read_text())["project"]
    shown = "from importlib.metadata import requires, version; print(version('djl-serving'), requires('djl-serving'))"
    assert run(tmp_path, "python", "-c", shown).stdout == f"{project['version']} {project['dependencies']}\n"


def test_its_command_serves_a_directory(tmp_path: Path) -> None:
    """A handler of another's, up to the sentence that says why it cannot be loaded."""
    (tmp_path / "model.py").write_text(
        "from djl_python import Output\n\ndef handle(inputs):\n    raise OSError('no weights')\n"
    )
    done = run(tmp_path, "djl-serving", str(tmp_path), "--host", "127.0.0.1", "--port", "0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("the handler failed to load: OSError: no weights")
