"""Check the files of a model folder before the engine starts: readable, whole, and all there.

The engine finds a broken file after a minute of work, in one of its processes, and tells it by a traceback. Here only
what its own loaders refuse is refused, with the file's name and the cause. What this does not know (a loader of
another format, a file of another library) passes.
"""

import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lmi_chat.text import one_line

CONFIGS = ("config.json", "params.json")
JSON_OBJECTS = (
    *CONFIGS,
    *("generation_config.json", "preprocessor_config.json", "processor_config.json", "chat_template.json"),
    *("quantize_config.json", "quant_config.json", "hf_quant_config.json"),
)
TOKENIZER_OBJECTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_DATA = ("vocab.json", "tekken.json")
TOKENIZER_TEXTS = ("merges.txt", "vocab.txt", "chat_template.jinja")
TOKENIZER_BINARIES = ("tokenizer.model*", "spiece.model", "sentencepiece.bpe.model", "*.tiktoken")
TOKENIZER_NAMES = ("*tokenizer*", "*vocab*", "merges.txt", "tekken.json", "*.model", "*.tiktoken", "*.gguf")
"""At least one of these is in a folder that a tokenizer can be made of."""
POINTER = b"version https://git-lfs"
SHARD = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\.[a-z]+)")
HEADER_BYTES_MOST = 100_000_000
"""The safetensors library's own bound."""
LENGTH = struct.Struct("<Q")
BITS: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E5M2FNUZ", "F8_E4M3FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of an element, of the types whose elements are whole bytes; of others only the place in the file is checked."""
SAFE, CONSOLIDATED = "*.safetensors", "consolidated*.safetensors"
SAFE_INDEX, CONSOLIDATED_INDEX = "model.safetensors.index.json", "consolidated.safetensors.index.json"
FORMATS: Mapping[str, tuple[str, ...]] = {
    "hf": (SAFE, "*.bin", "*.pt"),
    "mistral": (CONSOLIDATED,),
    "npcache": ("*.bin", "*.pt"),
    "pt": ("*.pt",),
    **dict.fromkeys(("safetensors", "fastsafetensors", "instanttensor"), (SAFE,)),
}
"""The files that each of the engine's formats takes weights from: those of the first pattern that finds any."""
NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
INDEXES = {SAFE: SAFE_INDEX, CONSOLIDATED: CONSOLIDATED_INDEX, "*.bin": "pytorch_model.bin.index.json"}
ZIP, GGUF = b"PK\x03\x04", b"GGUF"


class BadModelFolder(Exception):
    """A file of the model is missing or broken; the message is one sentence that names it and says why."""


def check(model: str, engine: Mapping[str, str]) -> None:
    """Check the folder or file `model`; `engine` are the engine's arguments. Raises BadModelFolder.

    A name of the hub passes, and is checked by who downloads it.
    """
    path = Path(model)
    if not path.exists() and model.startswith(("/", "./", "../", "~")):
        raise BadModelFolder(f"there is no model folder {_shown(model)}")
    try:
        if path.is_file():
            _check_gguf(path)
        elif path.is_dir():
            _check_folder(path, engine)
    except OSError as error:
        raise BadModelFolder(f"{_shown(error.filename or model)} cannot be read: {error.strerror}") from error


def _check_folder(folder: Path, engine: Mapping[str, str]) -> None:
    names = _names(folder)
    if not names:
        raise BadModelFolder(f"the model folder {_shown(folder)} is empty")
    has_other_config = "hf_config_path" in engine or any(name.endswith(".gguf") for name in names)
    if names.isdisjoint(CONFIGS) and not has_other_config:
        raise BadModelFolder(f"{_shown(folder)} is no model folder: it has no config.json")
    for name in sorted(names.intersection(JSON_OBJECTS)):
        _object(folder / name)
    if engine.get("skip_tokenizer_init") != "true":
        _check_tokenizer(Path(engine.get("tokenizer") or folder))
    _check_weights(folder, names, engine.get("load_format", "auto").lower())


def _check_tokenizer(folder: Path) -> None:
    if not folder.is_dir():
        return
    names = _names(folder)
    if not any(fnmatch(name, pattern) for name in names for pattern in TOKENIZER_NAMES):
        raise BadModelFolder(f"{_shown(folder)} has no tokenizer: neither tokenizer.json nor tokenizer.model")
    for name in sorted(names):
        path = folder / name
        if name in TOKENIZER_OBJECTS:
            _object(path)
        elif name in TOKENIZER_DATA:
            _json(path)
        elif name in TOKENIZER_TEXTS:
            _text(path)
        elif any(fnmatch(name, pattern) for pattern in TOKENIZER_BINARIES):
            _head(path)
    if "tokenizer.json" in names:
        _check_fast_tokenizer(folder / "tokenizer.json")


def _check_fast_tokenizer(path: Path) -> None:
    """Have the library that will read the file read it, where it is installed: the engine brings it."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return
    try:
        Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise BadModelFolder(f"{_shown(path)} is no tokenizer: {_reason(error)}") from error


def _check_weights(folder: Path, names: set[str], load_format: str) -> None:
    if load_format == "auto":
        load_format = "mistral" if any(fnmatch(name, CONSOLIDATED) for name in names) else "hf"
    patterns = FORMATS.get(load_format)
    if patterns is None:
        return
    weights = sorted(names - {*NOT_WEIGHTS})
    for pattern in patterns:
        index = folder / INDEXES.get(pattern, "")
        found = [folder / name for name in weights if fnmatch(name, pattern)]
        if index.is_file() and (found or pattern in {SAFE, CONSOLIDATED}):
            _check_parts(_by_index(index, names))
            return
        if found:
            _check_all_shards(found)
            _check_parts({path: frozenset() for path in found})
            return
    if not any(name.endswith(".gguf") for name in names):
        raise BadModelFolder(f"{_shown(folder)} has no weights: no file {' or '.join(patterns)}")


def _by_index(index: Path, names: set[str]) -> dict[Path, frozenset[str]]:
    """Read an index: each file of weights with the tensors that it should hold.

    Its `total_size` is not compared: many published ones count tied or quantised tensors otherwise.
    """
    places = _object(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise BadModelFolder(f"{_shown(index)} has no weight_map from tensors to files")
    missing = sorted({*places.values()} - names)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadModelFolder(
            f"{_shown(index.parent / missing[0])}{more} of the {len({*places.values()})} files that {index.name} lists"
            f" {'are' if more else 'is'} missing"
        )
    held: dict[Path, set[str]] = {}
    for tensor, name in places.items():
        held.setdefault(index.parent / name, set()).add(tensor)
    return {path: frozenset(tensors) for path, tensors in held.items()}


def _check_all_shards(paths: list[Path]) -> None:
    """Of files that are numbered as parts of a whole, all are there."""
    here = {path.name for path in paths}
    for path in paths:
        if found := SHARD.fullmatch(path.name):
            head, _, count, tail = found.groups()
            for number in range(1, int(count) + 1):
                name = f"{head}{number:05d}-of-{count}{tail}"
                if name not in here and f"{head}00000-of-{count}{tail}" not in here:
                    raise BadModelFolder(f"{_shown(path.parent / name)} is missing: {path.name} is one of {int(count)}")


def _check_parts(parts: Mapping[Path, frozenset[str]]) -> None:
    count = 0
    for path, expected in parts.items():
        if path.suffix != ".safetensors":
            _check_pickle(path)
            count += 1
            continue
        tensors = _tensors(path)
        if expected and tensors.isdisjoint(expected):
            raise BadModelFolder(f"{_shown(path)} holds none of the {len(expected)} tensors that the index says it has")
        count += len(tensors)
    if not count:
        raise BadModelFolder(f"{_shown(next(iter(parts)))} holds no tensors")


def _check_pickle(path: Path) -> None:
    """Check a file of torch.save by its ends: the newer kind is a zip archive, whose list stands last."""
    if _head(path).startswith(ZIP) and not zipfile.is_zipfile(path):
        raise BadModelFolder(f"{_shown(path)} is cut short: its end is missing")


def _check_gguf(path: Path) -> None:
    if path.suffix == ".gguf" and not _head(path).startswith(GGUF):
        raise BadModelFolder(f"{_shown(path)} is no GGUF file: it does not begin with {GGUF.decode()}")


def _tensors(path: Path) -> frozenset[str]:
    """Check a safetensors file as its library does, by its header and size, and name its tensors."""
    _head(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < LENGTH.size:
            raise BadModelFolder(f"{_shown(path)} is cut short: {size} bytes are no safetensors file")
        length = LENGTH.unpack(file.read(LENGTH.size))[0]
        if length > HEADER_BYTES_MOST:
            raise BadModelFolder(f"{_shown(path)} is no safetensors file: its header would have {length} bytes")
        data_bytes = size - LENGTH.size - length
        if data_bytes < 0:
            text = f"its header has {length} bytes, the whole file {size}"
            raise BadModelFolder(f"{_shown(path)} is cut short: {text}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise BadModelFolder(f"{_shown(path)} has a broken header: {_reason(error)}") from error
    if not isinstance(header, dict):
        raise BadModelFolder(f"{_shown(path)} has a broken header: it is no JSON object")
    header.pop("__metadata__", None)
    end = 0
    for begin, until, name in sorted(_places(path, header)):
        if begin != end:
            raise BadModelFolder(
                f"{_shown(path)} has a broken header: tensor {_shown(name)} begins at byte {begin}, not at {end}"
            )
        end = until
    if end > data_bytes:
        raise BadModelFolder(
            f"{_shown(path)} is cut short: its tensors have {end} bytes, of which {data_bytes} are there"
        )
    if end < data_bytes:
        raise BadModelFolder(f"{_shown(path)} is damaged: {data_bytes - end} bytes follow its last tensor")
    return frozenset(header)


def _places(path: Path, header: Mapping[str, Any]) -> Iterator[tuple[int, int, str]]:
    """Return where each tensor begins and ends, in bytes after the header."""
    for name, entry in header.items():
        match entry:
            case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
                is_sound = 0 <= begin <= end and all(isinstance(length, int) and length >= 0 for length in shape)
            case _:
                is_sound = False
        if not is_sound:
            raise BadModelFolder(
                f"{_shown(path)} has a broken header: tensor {_shown(name)} has no type, shape and place"
            )
        expected = math.prod(shape) * BITS[kind] // 8 if kind in BITS else end - begin
        if expected != end - begin:
            text = f"tensor {_shown(name)} has {end - begin} bytes, and {expected} by its type and shape"
            raise BadModelFolder(f"{_shown(path)} has a broken header: {text}")
        yield begin, end, name


def _names(folder: Path) -> set[str]:
    """Name what stands in a folder and is no folder itself; links that lead nowhere, too."""
    return {path.name for path in folder.iterdir() if not path.is_dir()}


def _object(path: Path) -> dict[str, Any]:
    value = _json(path)
    if not isinstance(value, dict):
        raise BadModelFolder(f"{_shown(path)} must hold a JSON object, and holds {_shown(json.dumps(value))}")
    return value


def _json(path: Path) -> object:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise BadModelFolder(f"{_shown(path)} is no valid JSON: {_reason(error)}") from error


def _text(path: Path) -> str:
    _head(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadModelFolder(f"{_shown(path)} is no UTF-8 text (byte {error.start})") from error


def _head(path: Path) -> bytes:
    """Return a file's first bytes. Raises BadModelFolder for one that is empty, or stands for another."""
    with path.open("rb") as file:
        head = file.read(len(POINTER))
    if not head:
        raise BadModelFolder(f"{_shown(path)} is empty")
    if head == POINTER:
        raise BadModelFolder(f"{_shown(path)} is a pointer of Git LFS, not the file itself; git lfs pull fetches it")
    return head


def _reason(error: BaseException) -> str:
    return one_line(str(error) or type(error).__name__, 160)


def _shown(value: object) -> str:
    return one_line(str(value), 200)
