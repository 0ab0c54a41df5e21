"""What `make run` starts, as `make -n` prints it, and what it installs, with a uv that only takes notes.

`.ci/run` is here too: it installs what the Makefile only names.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("environment", "words", "port"),
    [
        ({}, (), "8080"),
        ({"SAGEMAKER_BIND_TO_PORT": "9123"}, (), "9123"),
        ({"SAGEMAKER_BIND_TO_PORT": "9123"}, ("PORT=9000",), "9000"),
        ({"SAGEMAKER_BIND_TO_PORT": "9123", "PORT": "9001"}, (), "9001"),
    ],
)
def test_the_port_of_make_run(environment: dict[str, str], words: tuple[str, ...], port: str) -> None:
    done = make("-n", "ENGINE=cpu", "run", *words, environment=environment)
    assert re.findall(r"lmi-chat serve .*--port (\S+)", done.stdout) == [port]
    assert done.returncode == 0
    assert "apt-get -" not in done.stdout, "nothing of the system is installed unasked"


def test_an_installation_asks_the_index_of_pytorch_with_short_limits(tmp_path: Path) -> None:
    shown = make("-n", "ENGINE=cpu", f"VENV={tmp_path}/venv", "run").stdout.replace("\\\n", " ")
    [line] = [line for line in shown.splitlines() if "pip compile" in line]
    assert "UV_HTTP_RETRIES=0 timeout 10 " in re.sub(r"\s+", " ", line)
    assert "--torch-backend" not in make("-n", "ENGINE=gpu", f"VENV={tmp_path}/venv", "run").stdout


CPU_BUILDS = "torch==2.13.0+cpu torchaudio==2.11.0+cpu torchcodec==0.17.0+cpu torchvision==0.28.0+cpu"


@pytest.mark.parametrize(
    ("found", "fails", "with_backend", "words"),
    [
        (CPU_BUILDS, "", [True], ["PyTorch's CPU build"]),
        (CPU_BUILDS, "install*torch-backend", [True, False], ["PyTorch's CPU build", "package index's PyTorch"]),
        (CPU_BUILDS.replace("0.17.0+cpu", "0.17.0"), "", [False], ["package index's PyTorch"]),
        ("", "pip?compile", [False], ["package index's PyTorch"]),
        ("", "", [False], ["package index's PyTorch"]),
    ],
    ids=["there", "breaks off", "not of each package", "not reached", "empty"],
)
def test_the_cpu_build_of_pytorch_is_taken_where_it_can_be_had(
    tmp_path: Path, found: str, fails: str, with_backend: list[bool], words: list[str]
) -> None:
    venv, log = tmp_path / "venv", tmp_path / "log"
    script(
        venv / "bin" / "uv",
        f"""
echo "$@" >> {log}
case "$*" in *pip?compile*) cat > {tmp_path}/asked;; esac
case "$*" in *{fails or "nothing-of-this"}*) echo a stack of reasons >&2; exit 1;; esac
case "$*" in *pip?compile*) printf '%s\\n' {found};; esac
""",
    )
    done = make("ENGINE=cpu", f"VENV={venv}", f"PYTHON={script(tmp_path / 'python', 'exit 0')}", "install")
    assert done.returncode == 0, done.stderr
    assert [word for word, line in zip(words, done.stdout.splitlines(), strict=True) if word in line] == words
    assert done.stderr.splitlines() == (["a stack of reasons"] if len(installs(log)) > 1 else [])
    pinned = [line for line in (ROOT / "requirements/constraints-cpu.txt").read_text().splitlines() if "torch" in line]
    assert (tmp_path / "asked").read_text().splitlines() == pinned
    assert ["--torch-backend cpu" in line for line in installs(log)] == with_backend
    assert all("--override requirements/overrides-cpu.txt" in line and ".[cpu]" in line for line in installs(log))
    assert (venv / ".cpu").exists()


@pytest.mark.parametrize(
    ("lacks", "engine", "packages"),
    [
        ("ensurepip", "cpu", "python3-venv"),
        ("libnuma", "cpu", "libnuma1"),
        ("import", "cpu", "python3-venv libnuma1"),
        ("import", "gpu", "python3-venv"),
    ],
)
def test_missing_packages_of_the_system_are_named_and_not_installed(
    tmp_path: Path, lacks: str, engine: str, packages: str
) -> None:
    """All at once, before anything is made."""
    python = script(tmp_path / "python", f'case "$2" in *sys.version_info*) exit 0;; *{lacks}*) exit 1;; esac')
    script(tmp_path / "bin" / "apt-get", f"touch {tmp_path}/installed")
    path = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = make(f"ENGINE={engine}", f"VENV={tmp_path}/venv", f"PYTHON={python}", "run", environment=path)
    said = [line for line in done.stderr.splitlines() if not line.startswith("make: ")]
    sentence = "lmi-chat needs packages of the system; on Debian and Ubuntu: apt-get install"
    assert (done.returncode, said, done.stdout) == (2, [f"{sentence} {packages}"], "")
    assert not (tmp_path / "installed").exists()
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("lacks", "user", "installed"),
    [
        ("import", "0", ["-qq update", "-qq install --yes python3-venv libnuma1"]),
        ("libnuma", "0", ["-qq update", "-qq install --yes libnuma1"]),
        ("nothing", "0", []),
        ("import", "1000", []),
    ],
)
def test_ci_installs_what_make_only_names(tmp_path: Path, lacks: str, user: str, installed: list[str]) -> None:
    script(tmp_path / "python3", f'case "$2" in *{lacks}*) exit 1;; esac')
    script(tmp_path / "id", f"echo {user}")
    script(tmp_path / "apt-get", f'echo "$@" >> {tmp_path}/log')
    script(tmp_path / "make", f'echo "make $@" >> {tmp_path}/log')
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([ROOT / ".ci" / "run"], env=environment, check=True, capture_output=True)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[: len(installed) + 1] == [*installed, "make check"]


def installs(log: Path) -> list[str]:
    """What was asked of uv, without the question whether the index is there."""
    asked, *others = log.read_text().splitlines()
    assert "--torch-backend cpu" in asked
    return others


def make(*words: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run make in the repository, with nothing of the make or the server that these tests may run under."""
    own = {
        name: value for name, value in os.environ.items() if not re.match(r"M(AKE)?FLAGS|MAKE|PORT$|SAGEMAKER", name)
    }
    command = ["make", "--no-print-directory", *words]
    given = own | (environment or {})
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)


def script(path: Path, text: str) -> Path:
    """A program of the shell's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
