"""Adapters' files for tests that need no engine."""

import gzip
import io
import json
import tarfile
from pathlib import Path

from tests.support.model_folders import safetensors

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "base_model_name_or_path": "x"}
FILES = {"adapter_config.json": json.dumps(CONFIG).encode(), "adapter_model.safetensors": safetensors()}


def write(folder: Path, **more: bytes) -> Path:
    """An adapter's folder; `more` are further files, with _ for the dot in their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (FILES | {name.replace("_", ".", 1): content for name, content in more.items()}).items():
        (folder / name).write_bytes(content)
    return folder


def packed(files: dict[str, bytes], *odd: tarfile.TarInfo, mode: str = "w:gz") -> bytes:
    """A tar archive of files, and of odd members without content."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in odd:
            tar.addfile(member)
    return data.getvalue()


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A link in an archive."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


def extended(header: dict[str, str], times: int = 1) -> bytes:
    """A tar archive of an adapter, before it so many extended headers."""
    return gzip.compress(tarfile.TarInfo.create_pax_global_header(header) * times + packed(FILES, mode="w"))
