"""Broken model folders, each of which stops the start with one sentence that names the file and the cause."""

import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from lmi_chat.config.settings import read
from lmi_chat.engine.vllm import engine as engine_vllm
from lmi_chat.pipeline.pipeline import Pipeline
from lmi_chat.server import bootstrap
from lmi_chat.server.model_folder import BadModelFolder, check
from tests.support.model_folders import TENSORS, safetensors, with_header, write_folder

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
WEIGHTS, SECOND = "model.safetensors", "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
WHOLE = safetensors()
Break = Callable[[Path], object]


def written(name: str, data: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(data)


def without(*names: str) -> Break:
    def do(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return do


def instead(name: str, data: bytes) -> Break:
    """Other weights than the folder's."""

    def do(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / name).write_bytes(data)

    return do


def linked_to_nothing(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("gone")


def first_and_third(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00003.safetensors")
    (folder / "model-00003-of-00003.safetensors").write_bytes(WHOLE)


def emptied(folder: Path) -> None:
    for path in [*folder.iterdir()]:
        path.unlink()


def one_tensor(**fields: object) -> bytes:
    sound = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return with_header({"t": {name: value for name, value in {**sound, **fields}.items() if value is not None}}, 8)


FILES: dict[str, tuple[str, Break, str]] = {
    "empty config": ("config.json", written("config.json", b""), "is empty"),
    "config cut short": (
        "config.json",
        written("config.json", b'{"a": 1'),
        "is no valid JSON: Expecting ',' delimiter",
    ),
    "config a list": ("config.json", written("config.json", b"[]"), r"must hold a JSON object, and holds \[\]"),
    "config with a mark": (
        "config.json",
        written("config.json", b"\xef\xbb\xbf{}"),
        "is no valid JSON: Unexpected UTF-8 BOM",
    ),
    "config in UTF-16": (
        "config.json",
        written("config.json", '{"a":1}'.encode("utf-16")),
        r"is no UTF-8 text \(byte 0\)",
    ),
    "config too deep": (
        "config.json",
        written("config.json", b'{"a":' + b"[" * 200_000),
        "is no valid JSON: maximum recursion",
    ),
    "config a pointer": ("config.json", written("config.json", POINTER), "is a pointer of Git LFS"),
    "generation config": ("generation_config.json", written("generation_config.json", b"{"), "is no valid JSON"),
    "tokenizer cut short": ("tokenizer.json", written("tokenizer.json", b'{"model": {'), "is no valid JSON"),
    "tokenizer without model": ("tokenizer.json", written("tokenizer.json", b"{}"), "is no tokenizer: "),
    "tokenizer of no kind": (
        "tokenizer.json",
        written("tokenizer.json", b'{"version":"1.0","model":{"type":"X"}}'),
        "is no tokenizer: ",
    ),
    "tokenizer a pointer": ("tokenizer.json", written("tokenizer.json", POINTER), "is a pointer of Git LFS"),
    "tokenizer config": ("tokenizer_config.json", written("tokenizer_config.json", b'{"a": NONE}'), "is no valid JSON"),
    "special tokens": ("special_tokens_map.json", written("special_tokens_map.json", b"0"), "must hold a JSON object"),
    "empty sentencepiece": ("tokenizer.model", written("tokenizer.model", b""), "is empty"),
    "merges": ("merges.txt", written("merges.txt", b"\xff"), "is no UTF-8 text"),
    "template": ("chat_template.jinja", written("chat_template.jinja", b"\xff\xfe"), "is no UTF-8 text"),
    "empty weights": (WEIGHTS, written(WEIGHTS, b""), "is empty"),
    "weights a pointer": (WEIGHTS, written(WEIGHTS, POINTER), "is a pointer of Git LFS"),
    "seven bytes": (WEIGHTS, written(WEIGHTS, b"1234567"), "is cut short: 7 bytes are no safetensors file"),
    "cut in the header": (
        WEIGHTS,
        written(WEIGHTS, WHOLE[:40]),
        r"is cut short: its header has \d+ bytes, the whole file 40",
    ),
    "cut in the data": (
        WEIGHTS,
        written(WEIGHTS, WHOLE[:-1]),
        "is cut short: its tensors have 48 bytes, of which 47 are there",
    ),
    "bytes too many": (WEIGHTS, written(WEIGHTS, WHOLE + b"1"), "is damaged: 1 bytes follow its last tensor"),
    "no safetensors at all": (
        WEIGHTS,
        written(WEIGHTS, b"<html>Not found</html>"),
        "is no safetensors file: its header would have",
    ),
    "header no JSON": (
        WEIGHTS,
        written(WEIGHTS, b"\2" + bytes(7) + b"{,"),
        "has a broken header: Expecting property name",
    ),
    "header no UTF-8": (WEIGHTS, written(WEIGHTS, b"\2" + bytes(7) + b"\xff{"), "has a broken header: 'utf-8' codec"),
    "header a list": (WEIGHTS, written(WEIGHTS, with_header([])), "has a broken header: it is no JSON object"),
    "no tensors": (WEIGHTS, written(WEIGHTS, with_header({})), "holds no tensors"),
    "tensor without shape": (
        WEIGHTS,
        written(WEIGHTS, one_tensor(shape=None)),
        "tensor t has no type, shape and place",
    ),
    "tensor that ends early": (
        WEIGHTS,
        written(WEIGHTS, one_tensor(data_offsets=[8, 0])),
        "tensor t has no type, shape and place",
    ),
    "tensor before the data": (
        WEIGHTS,
        written(WEIGHTS, one_tensor(data_offsets=[-8, 0])),
        "tensor t has no type, shape and place",
    ),
    "tensor of another size": (
        WEIGHTS,
        written(WEIGHTS, one_tensor(shape=[3])),
        "tensor t has 8 bytes, and 12 by its type and shape",
    ),
    "a hole": (
        WEIGHTS,
        written(WEIGHTS, one_tensor(shape=[1], data_offsets=[4, 8])),
        "tensor t begins at byte 4, not at 0",
    ),
    "gone behind a link": (
        WEIGHTS,
        linked_to_nothing,
        "cannot be read: No such file",
    ),
    "torch's file cut short": (
        "pytorch_model.bin",
        instead("pytorch_model.bin", b"PK\3\4 and no end"),
        "is cut short: its end is missing",
    ),
    "torch's file empty": (
        "pytorch_model.bin",
        instead("pytorch_model.bin", b""),
        "is empty",
    ),
    "numbered, one missing": (
        SECOND,
        first_and_third,
        "is missing: model-00001-of-00003.safetensors is one of 3",
    ),
}
SHARDED: dict[str, tuple[str, Break, str]] = {
    "one missing": (SECOND, without(SECOND), f"of the 3 files that {INDEX} lists is missing"),
    "two missing": (
        SECOND,
        without(SECOND, "model-00003-of-00003.safetensors"),
        f" and 1 more of the 3 files that {INDEX} lists are missing",
    ),
    "one empty": (SECOND, written(SECOND, b""), "is empty"),
    "one cut short": (
        SECOND,
        written(SECOND, safetensors({"layer.2": ("F32", [4])})[:-8]),
        "is cut short: its tensors have 16 bytes, of which 8 are there",
    ),
    "one twice": (
        SECOND,
        written(SECOND, safetensors({"layer.1": ("F32", [4])})),
        "holds none of the 1 tensors that the index says it has",
    ),
    "index cut short": (INDEX, written(INDEX, b'{"weight_map": {'), "is no valid JSON"),
    "index empty": (INDEX, written(INDEX, b""), "is empty"),
    "index without a map": (INDEX, written(INDEX, b'{"metadata": {}}'), "has no weight_map from tensors to files"),
    "index of numbers": (INDEX, written(INDEX, b'{"weight_map": {"a": 1}}'), "has no weight_map from tensors to files"),
}


@pytest.mark.parametrize("case", [*FILES, *SHARDED])
async def test_a_broken_file_stops_the_start_before_the_engine(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the way of production: nothing of the engine is imported, and the sentence names the file's whole path."""
    name, do, cause = (FILES | SHARDED)[case]
    folder = write_folder(tmp_path, shards=3 if case in SHARDED else 0)
    check(str(folder), {})
    do(folder)
    monkeypatch.setattr(engine_vllm, "check_installed", lambda: None)
    settings = read({"model_id": str(folder)}, {}, None, {})
    phases: list[str] = []
    with pytest.raises(bootstrap.StartFailed, match=f"^{re.escape(str(folder / name))} ?.*{cause}") as raised:
        await bootstrap.load(settings, Pipeline(bootstrap.pipeline_config(settings)), phases.append)
    assert phases == []
    assert "\n" not in str(raised.value)


LIBRARYS_OWN = [case for case, (name, _, _) in FILES.items() if name == WEIGHTS and case != "no tensors"]


@pytest.mark.parametrize("case", LIBRARYS_OWN)
def test_the_library_refuses_what_is_refused(case: str, tmp_path: Path) -> None:
    """Nothing is held against a file that the engine could load."""
    folder = write_folder(tmp_path)
    with safe_open(folder / WEIGHTS, "np") as file:
        assert {*file.keys()} == {*TENSORS}
    FILES[case][1](folder)
    with pytest.raises((SafetensorError, OSError)):
        safe_open(folder / WEIGHTS, "np")


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (without("config.json"), "is no model folder: it has no config.json"),
        (
            without("tokenizer.json", "tokenizer_config.json"),
            "has no tokenizer: neither tokenizer.json nor tokenizer.model",
        ),
        (without(WEIGHTS), r"has no weights: no file \*.safetensors or \*.bin or \*.pt"),
        (emptied, "^the model folder .* is empty"),
    ],
)
def test_a_folder_that_lacks_something(do: Break, said: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    do(folder)
    with pytest.raises(BadModelFolder, match=said) as raised:
        check(str(folder), {})
    assert str(folder) in str(raised.value)


def test_a_folder_that_is_not_there_and_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadModelFolder, match=f"^there is no model folder {tmp_path}/none$"):
        check(f"{tmp_path}/none", {})
    folder = write_folder(tmp_path)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")
    with pytest.raises(BadModelFolder, match=r"config\.json cannot be read: Too many levels"):
        check(str(folder), {})


def gguf(folder: Path) -> None:
    emptied(folder)
    (folder / "model.Q4_K_M.gguf").write_bytes(b"GGUF\3\0\0\0")


def torch_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\2}.")
    (folder / "training_args.bin").touch()


def old_torch_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\2\x8a\n")


def mistral(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / WEIGHTS).rename(folder / "consolidated.safetensors")
    (folder / "params.json").write_text("{}")
    (folder / "tekken.json").write_text('{"config": {}}')
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"half a download that the engine does not read")


def sub_byte(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(safetensors({"t": ("F4", [2, 4])}))


def beside_the_index(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, WEIGHTS)}))
    (folder / "consolidated-old.bin").touch()
    (folder / "other.safetensors").touch()


@pytest.mark.parametrize(
    ("do", "engine"),
    [
        (gguf, {}),
        (torch_weights, {}),
        (old_torch_weights, {}),
        (mistral, {}),
        (sub_byte, {}),
        (beside_the_index, {}),
        (written("notes.json", b"{"), {}),
        (lambda folder: (folder / "adapters").mkdir(), {}),
        (without(WEIGHTS), {"load_format": "dummy"}),
        (without(WEIGHTS), {"load_format": "runai_streamer"}),
        (written(WEIGHTS, b""), {"load_format": "tensorizer"}),
        (without("tokenizer.json", "tokenizer_config.json"), {"skip_tokenizer_init": "true"}),
        (without("tokenizer.json", "tokenizer_config.json"), {"tokenizer": "org/tokenizer"}),
        (without("config.json"), {"hf_config_path": "org/model"}),
        (written("config.json", b'{"rope_scaling": {"factor": Infinity}}'), {}),
    ],
)
def test_other_formats_and_other_peoples_files_pass(do: Break, engine: dict[str, str], tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    do(folder)
    check(str(folder), engine)


def test_a_name_of_the_hub_and_a_file_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check("org/model", {})
    Path("m.gguf").write_bytes(b"GGUF\3")
    check("m.gguf", {})
    Path("m.gguf").write_bytes(b"<html>")
    with pytest.raises(BadModelFolder, match=r"m\.gguf is no GGUF file: it does not begin with GGUF"):
        check("m.gguf", {})


def test_a_tokenizer_in_another_folder_is_checked_there(tmp_path: Path) -> None:
    folder, other = write_folder(tmp_path / "model"), write_folder(tmp_path / "other")
    os.truncate(other / "tokenizer.json", 10)
    with pytest.raises(BadModelFolder, match=r"other/tokenizer\.json is no valid JSON"):
        check(str(folder), {"tokenizer": str(other)})
