"""What `make run` starts, as `make -n` prints it, and what it installs, with a uv that only takes notes.

`.ci/run` is here too: it installs what the Makefile only names.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import uv

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
        (CPU_BUILDS, "", [True, False], ["PyTorch's CPU build"]),
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
case "$*" in *pip?compile*) cat > {tmp_path}/asked;; *--requirements?-*) cat > {tmp_path}/first;; esac
case "$*" in *{fails or "nothing-of-this"}*) echo a stack of reasons >&2; exit 1;; esac
case "$*" in *pip?compile*) printf '%s\\n' {found};; esac
""",
    )
    done = make("ENGINE=cpu", f"VENV={venv}", f"PYTHON={script(tmp_path / 'python', 'exit 0')}", "install")
    assert done.returncode == 0, done.stderr
    assert [word for word, line in zip(words, done.stdout.splitlines(), strict=True) if word in line] == words
    assert done.stderr.splitlines() == (["a stack of reasons"] if fails and with_backend[0] else [])
    pinned = re.findall(r"^torch[a-z]*==\S+", (ROOT / "requirements/constraints-cpu.txt").read_text(), re.MULTILINE)
    assert len(pinned) == 4
    assert (tmp_path / "asked").read_text().splitlines() == pinned
    *first, last = installs(log)
    assert ["--torch-backend cpu" in line for line in (*first, last)] == with_backend
    assert all("--no-deps" in line and (tmp_path / "first").read_text().splitlines() == pinned for line in first)
    assert "--constraint requirements/constraints-cpu.txt --override requirements/overrides-cpu.txt" in last
    assert ".[cpu]" in last
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
        ("chromium", "0", ["-qq update", "-qq install --yes chromium"]),
        ("nothing", "0", []),
        ("import", "1000", []),
    ],
)
def test_ci_installs_what_make_only_names(tmp_path: Path, lacks: str, user: str, installed: list[str]) -> None:
    script(tmp_path / "python3", f'case "$2" in *{lacks}*) exit 1;; esac')
    script(tmp_path / "chromium", f"exit {int(lacks == 'chromium')}")
    script(tmp_path / "id", f"echo {user}")
    script(tmp_path / "apt-get", f'echo "$@" >> {tmp_path}/log')
    script(tmp_path / "make", f'echo "make $@" >> {tmp_path}/log')
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([ROOT / ".ci" / "run"], env=environment, check=True, capture_output=True)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[: len(installed) + 1] == [*installed, "make check"]


@pytest.mark.parametrize("name", ["constraints-cpu.txt", "constraints-gpu.txt", "audit.txt"])
def test_every_package_has_its_version_and_hashes(name: str) -> None:
    lines = [line for line in (ROOT / "requirements" / name).read_text().splitlines() if not line.startswith("#")]
    packages = [line for line in lines if not line.startswith(" ")]
    assert packages
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; .*)? \\", line) for line in packages)
    followed = zip(lines, [*lines[1:], ""], strict=True)
    assert all(after.startswith("    --hash=sha256:") for line, after in followed if not line.startswith(" "))


def test_uv_refuses_a_file_with_another_hash(tmp_path: Path) -> None:
    """A dependency of what is installed, whose hash stands among the constraints alone; nothing is fetched."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, required in (("first-of-two", "Requires-Dist: second-of-two>=1\n"), ("second-of-two", "")):
        module = name.replace("-", "_")
        info = f"{module}-1.0.dist-info"
        with zipfile.ZipFile(wheels / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{required}")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256((wheels / "second_of_two-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    options = ["--no-index", "--find-links", str(wheels), "--target", str(tmp_path / "there"), "--offline"]
    for given, code in ((digest, 0), ("0" * 64, 1)):
        (tmp_path / "pins.txt").write_text(f"second-of-two==1.0 --hash=sha256:{given}\n")
        words = [uv.find_uv_bin(), "pip", "install", "--no-cache", *options, "--constraint", str(tmp_path / "pins.txt")]
        done = subprocess.run([*words, "first-of-two"], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        shutil.rmtree(tmp_path / "there", ignore_errors=True)
    assert "Hash mismatch" in done.stderr


@pytest.mark.parametrize(
    ("printed", "said", "code", "words"),
    [
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}',
            "",
            0,
            "no known vulnerability in 1 packages",
        ),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}]}',
            "",
            1,
            "a 1: PYSEC-1, mended in 2",
        ),
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', "", 0, "no audit: this package index has no"),
        ("", "requests.exceptions.ConnectionError: Max retries exceeded", 0, "no audit: the list of vulnerabilities"),
        ("", "unrecognized arguments", 1, "the audit failed: unrecognized arguments"),
    ],
    ids=["clean", "found", "no list", "not reached", "broken"],
)
def test_the_audit_fails_on_what_it_finds(tmp_path: Path, printed: str, said: str, code: int, words: str) -> None:
    program = script(tmp_path / "pip-audit", f"echo '{said}' >&2; printf '%s' '{printed}'")
    command = [sys.executable, str(ROOT / ".ci" / "audit.py"), str(program), "requirements.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert (done.stdout + done.stderr).startswith(words)


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
