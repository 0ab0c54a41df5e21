"""The file: where it is looked for, what it may be, and which line a key stands on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmi_chat.config.sources import PROPERTIES, PROPERTIES_BYTES, BadSetting, find_properties, from_properties


def given(path: Path, data: bytes) -> list[tuple[str, str, int]]:
    file = path / PROPERTIES
    file.write_bytes(data)
    found, _ = from_properties(file)
    assert all(item.origin.startswith(f"{file}:") for item in found)
    return [(item.name, item.text, int(item.origin.rpartition(":")[2])) for item in found]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_are_counted_as_an_editor_counts(tmp_path: Path, end: bytes, mark: bytes) -> None:
    lines = [
        b"option.port=1",
        b"",
        b"# option.no=1",
        b"! no",
        b"  max_n : 2",
        b"option.a=x\\",
        b"   y",
        b"option.b \xc3\xa9",
    ]
    assert given(tmp_path, mark + end.join(lines)) == [
        ("port", "1", 1),
        ("max_n", "2", 5),
        ("a", "xy", 6),
        ("b", "é", 8),
    ]


def test_values_as_java_reads_them(tmp_path: Path) -> None:
    data = b'option.speculative_config={"method":"ngram","n": 4}\noption.c=a\\tb\\u00e9 \noption.d=a=b:c\noption.e'
    assert [text for _, text, _ in given(tmp_path, data)] == ['{"method":"ngram","n": 4}', "a\tbé", "a=b:c", ""]
    assert given(tmp_path, b"") == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a=1\noption.port=\\u12", "serving.properties:2: it cannot be read"),
        (b"a=1\nb=2\noption.host=\xff", r"serving.properties:3: it is not UTF-8 \(byte 0xff\)"),
        (b"#" * (PROPERTIES_BYTES + 1), "serving.properties is larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_not_properties_stops_the_start(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        given(tmp_path, data)


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"serving\.properties cannot be read: No such file or directory"):
        from_properties(tmp_path / PROPERTIES)
    (tmp_path / PROPERTIES).mkdir()
    with pytest.raises(BadSetting, match=r"serving\.properties cannot be read: Is a directory"):
        from_properties(tmp_path / PROPERTIES)
    assert find_properties("", str(tmp_path)) != tmp_path / PROPERTIES
    with pytest.raises(BadSetting, match="--properties: there is no file"):
        find_properties(str(tmp_path / PROPERTIES), "")


@pytest.mark.parametrize("size", [PROPERTIES_BYTES // 16, pytest.param(PROPERTIES_BYTES, marks=pytest.mark.slow)])
def test_a_large_file_is_read_in_no_time(tmp_path: Path, size: int) -> None:
    """The largest is read before the test is out of time, so each line is looked at once, whatever the file's form."""
    line = b"option.port=8080\\\n\n"
    assert given(tmp_path, line * (size // len(line)))[-1][0] == "port"
    assert given(tmp_path, b"a=" + b"\\\n" * (size // 2 - 2)) == [("a", "", 1)]


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, model = tmp_path / "here", tmp_path / "model"
    for place in (here, model):
        place.mkdir()
    monkeypatch.chdir(here)
    assert find_properties("", "") is None
    (here / PROPERTIES).write_text("")
    assert find_properties("", "hub/name") == Path(PROPERTIES)
    (model / PROPERTIES).write_text("")
    assert find_properties("", str(model)) == model / PROPERTIES
    assert find_properties(str(here / PROPERTIES), str(model)) == here / PROPERTIES
    with pytest.raises(BadSetting, match="there is no file /nowhere"):
        find_properties("/nowhere", "")


@pytest.mark.parametrize("variable", ["OPTION_MODEL_ID", "HF_MODEL_ID", "SM_VLLM_MODEL"])
def test_the_model_folders_file_is_found_by_any_name_of_the_model(tmp_path: Path, variable: str) -> None:
    (tmp_path / PROPERTIES).write_text("option.max_n=3")
    words = [sys.executable, "-m", "lmi_chat", "explain-config"]
    environment = {**os.environ, variable: str(tmp_path)}
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    row = next(line for line in said.splitlines() if line.startswith("max_n "))
    assert row.split() == ["max_n", "3", f"{tmp_path}/serving.properties:1"]
