"""Choose an adapter's own files among those of its source, check them and copy them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lmi_chat.fetching import FetchFailed, SourceMissing
from lmi_chat.limits import RegistryLimits
from lmi_chat.text import echo, one_line

CONFIG, CODE = "adapter_config.json", "model.py"
SAFE_WEIGHTS = "adapter_model.safetensors"
WEIGHTS = (SAFE_WEIGHTS, "adapter_model.bin", "adapter_model.pt")
"""The first that is there is what the engine reads."""
CONFIG_BYTES = CODE_BYTES = 2**20
TrustedCode = Literal["off", "local", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRules:
    """Which files a source may bring.

    `trusted`: whose model.py is kept, to be run: nobody's, that of folders and archives of this machine, or any.
    `refuses_code`, `refuses_pickle`: a source with a model.py, or without safetensors, is refused as a whole.
    """

    limits: RegistryLimits = field(default_factory=RegistryLimits)
    trusted: TrustedCode = "local"
    refuses_code: bool = False
    refuses_pickle: bool = False

    def wanted(self, src: str, sizes: Mapping[str, int], *, is_local: bool) -> list[str]:
        """Name the files of an adapter in a folder that has files of these `sizes`. Raises FetchFailed."""
        if not sizes:
            raise SourceMissing(f"there is nothing at {echo(src)}")
        if CONFIG not in sizes:
            raise FetchFailed(f"{echo(src)} is no adapter: it has no {CONFIG}")
        weights = next((name for name in WEIGHTS if name in sizes), None)
        if weights is None:
            raise FetchFailed(f"{echo(src)} has no weights: neither {' nor '.join(WEIGHTS)}")
        if self.refuses_pickle and weights != SAFE_WEIGHTS:
            raise FetchFailed(f"{echo(src)} has its weights in {weights}: the platform's secure mode wants safetensors")
        if self.refuses_code and CODE in sizes:
            raise FetchFailed(f"{echo(src)} has a {CODE}, which the platform's secure mode forbids")
        is_trusted = self.trusted == "any" or (self.trusted == "local" and is_local)
        names = [CONFIG, weights, *([CODE] if CODE in sizes and is_trusted else [])]
        for name, most in ((CONFIG, CONFIG_BYTES), (CODE, CODE_BYTES)):
            if name in names and sizes[name] > most:
                raise FetchFailed(f"{name} of {echo(src)} has {sizes[name]} bytes; at most {most} are read")
        self.check_bytes(src, sum(sizes[name] for name in names))
        return names

    def check_bytes(self, src: str, size: int) -> None:
        """Check the bytes of a source's files, or of its archive, against the limit. Raises FetchFailed."""
        if size > self.limits.bytes:
            raise FetchFailed(f"{echo(src)} has {size} bytes; max_adapter_bytes is {self.limits.bytes}")

    def keep(self, src: str, found: Path, into: Path, *, is_local: bool) -> None:
        """Copy an adapter's files from the folder `found`, or its only folder, to `into`. Raises FetchFailed."""
        folder = _inner(found)
        names = self.wanted(src, sizes_in(folder), is_local=is_local)
        _check_config(src, (folder / CONFIG).read_bytes())
        for name in names:
            shutil.copyfile(folder / name, into / name)


def sizes_in(folder: Path) -> dict[str, int]:
    """Size each file of a folder, without those of its folders."""
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}


def _inner(folder: Path) -> Path:
    """Find the folder with the configuration: this one, or the only one in it, as archives have it."""
    if (folder / CONFIG).is_file():
        return folder
    folders = [path for path in folder.iterdir() if path.is_dir() and (path / CONFIG).is_file()]
    return folders[0] if len(folders) == 1 else folder


def _check_config(src: str, text: bytes) -> None:
    """Refuse what is no configuration of LoRA weights; the engine checks it against the model. Raises FetchFailed."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FetchFailed(f"{CONFIG} of {echo(src)} is no JSON: {one_line(str(error), 160)}") from error
    if not isinstance(config, dict):
        raise FetchFailed(f"{CONFIG} of {echo(src)} must be a JSON object, got {echo(config)}")
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise FetchFailed(f"{CONFIG} of {echo(src)}: peft_type must be LORA, got {echo(kind)}")
    rank = config.get("r")
    if type(rank) is not int or rank < 1:
        raise FetchFailed(f"{CONFIG} of {echo(src)}: r, the rank, must be a whole number from 1, got {echo(rank)}")
