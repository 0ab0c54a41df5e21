"""Fetch a model from S3, a folder of objects or a tar archive, into the cache.

In the cache's folder `s3/` each address has a folder: `blobs/` holds its objects, each by key and ETag, and beside it
each version (all keys and ETags) has a folder with the model's files, links to the blobs or what the archive held. A
version gets its name by one rename, so what carries the name is whole; a start that finds it asks for the list alone.
"""

import functools
import hashlib
import json
import posixpath
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmi_chat.fetching import FetchFailed, SourceMissing, archive, s3
from lmi_chat.fetching.s3_download import Download, S3Object, remove_partials
from lmi_chat.server import model_cache
from lmi_chat.server.progress import Progress
from lmi_chat.text import one_line

FOLDER = "s3"
PHASES = {"download": 20, "check": 3, "unpack": 5}
ADVICE = "set download_dir (or LMI_CHAT_CACHE)"
SHOWN_IN_GB = 10**8
LOG_S = 10.0
"""Between two lines about a download where there is no terminal."""
CONFIGS = ("config.json", "params.json")
"""A model's folder has one of these, or a GGUF file: Hugging Face's, Mistral AI's."""


def fetch(address: str, cache: Path | None = None, reach: Callable[[float], None] = lambda _: None) -> Path:
    """Fetch the model at `address` into `cache` (by default model_cache.root()), unless it is there; gives its folder.

    `reach` hears what part is done, 0 to 1; progress is also shown on stderr. One process works at an address, others
    wait for it. What an interrupted download left is used by the next one. Blocks: use a thread. Raises FetchFailed.
    """
    found = s3.ADDRESS.fullmatch(address)
    if not found:
        raise FetchFailed(
            f"{one_line(address, 200)} is no address in S3: s3://bucket/folder/ or s3://bucket/model.tar.gz."
        )
    bucket, key = found["bucket"], found["key"] or ""
    cache = (cache or model_cache.root()).absolute() / FOLDER
    with s3.Sentences(address, bucket, cache, ADVICE):
        client = s3.client(address)
        objects = _list(client, bucket, key)
        if not objects:
            raise SourceMissing(f"There is nothing at {address}: no object's key begins so.")
        is_archive = len(objects) == 1 and objects[0].key.endswith(archive.SUFFIXES)
        files = {} if is_archive else _files(address, key, objects)
        home = cache / _digest(bucket, key)
        target = home / _digest(*((each.key, each.etag, each.size) for each in objects)) / _name(bucket, objects, key)
        if not _is_present(target, files):
            progress = Progress(
                sys.stderr, PHASES if is_archive else {name: PHASES[name] for name in ("download", "check")}
            )
            (home / "blobs").mkdir(parents=True, exist_ok=True)
            with model_cache.alone(home, address, progress):
                if not _is_present(target, files):
                    _Fetch(client, address, target, reach, progress).run(objects, files)
        return archive.inner(target) if is_archive else target


class _Fetch:
    """One model on its way into the cache."""

    def __init__(
        self, client: Any, address: str, target: Path, reach: Callable[[float], None], progress: Progress
    ) -> None:
        self._client, self._address, self._target = client, address, target
        self._reach, self._progress = reach, progress
        self._told = time.monotonic()

    def run(self, objects: Sequence[S3Object], files: dict[str, S3Object]) -> None:
        """Download `objects`; `files` are the names that they get, none: the one object is an archive."""
        blobs = self._target.parents[1] / "blobs"
        paths = {each: blobs / _digest(each.key, each.etag, each.size) for each in objects}
        remove_partials(blobs, paths.values())
        download = Download(self._client, paths.items())
        size = sum(each.size for each in objects)
        self._check_space(blobs, download.total_bytes, 0 if files else size)
        progress, count = self._progress, f"{len(objects)} file{'s' if len(objects) > 1 else ''}"
        there = f", {_gb(size - download.total_bytes)} of it here already" if download.total_bytes < size else ""
        progress.print_status(f"Fetching {self._address} ({count}, {_gb(size)}{there}) into {blobs.parent} …")
        new = self._target.parent.with_name(f".{self._target.parent.name}")
        shutil.rmtree(new, ignore_errors=True)
        model = new / self._target.name
        model.mkdir(parents=True)
        try:
            with progress.shown():
                with progress.phase("download"):
                    download.fetch(functools.partial(self._look, download))
                with progress.phase("check"):
                    download.check(lambda: None)
                for name, source in files.items():
                    path = model / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.symlink_to(posixpath.join(*[".."] * (2 + name.count("/")), "blobs", paths[source].name))
                if not files:
                    with progress.phase("unpack"):
                        archive.unpack(paths[objects[0]], self._address, model, progress.reach)
                    _check_names(self._address, [path.name for path in archive.inner(model).iterdir()])
            shutil.rmtree(self._target.parent, ignore_errors=True)  # a version that somebody took files from
            new.rename(self._target.parent)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        if not files:
            paths[objects[0]].unlink()
        self._reach(1)
        progress.print_status(f"{self._address} is here.")

    def _check_space(self, folder: Path, missing: int, unpacked: int) -> None:
        free = shutil.disk_usage(folder).free
        if free < missing + unpacked:
            what = f"{self._address} takes {_gb(missing + unpacked)}" + (" with what it holds" if unpacked else "")
            raise FetchFailed(
                f"{folder.parent} has {_gb(free)} free; {what}: set download_dir (or LMI_CHAT_CACHE) to a larger disk."
            )

    def _look(self, download: Download) -> None:
        """Show how far the download is."""
        share = download.done_bytes / download.total_bytes if download.total_bytes else 1.0
        self._progress.reach(share)
        self._reach(share)
        if not self._progress.has_bar and time.monotonic() - self._told >= LOG_S:
            self._told = time.monotonic()
            self._progress.print_status(f"  {_gb(download.done_bytes)} of {_gb(download.total_bytes)} ({share:.0%})")


def _list(client: Any, bucket: str, key: str) -> list[S3Object]:
    """List the objects of the folder, or the one archive. Raises FetchFailed, botocore's errors."""
    if key.endswith(archive.SUFFIXES):
        one = [each for each in s3.below(client, bucket, key) if each.key == key]
        if one:
            return one
    objects = list(s3.below(client, bucket, key if not key or key.endswith("/") else f"{key}/"))
    return objects or _refuse_one_file(bucket, key, next(s3.below(client, bucket, key), None))


def _refuse_one_file(bucket: str, key: str, found: S3Object | None) -> list[S3Object]:
    if found and found.key == key:
        ends = ", ".join(archive.SUFFIXES)
        raise FetchFailed(f"s3://{bucket}/{key} is one file: name a folder of model files, or an archive ({ends}).")
    return []


def _files(address: str, key: str, objects: Sequence[S3Object]) -> dict[str, S3Object]:
    """Name the files that the objects become. Raises FetchFailed where one leads out, or where they are no model."""
    begin = len(key if not key or key.endswith("/") else f"{key}/")
    files = {each.key[begin:]: each for each in objects}
    folders = {str(parent) for name in files for parent in Path(name).parents}
    for name, source in files.items():
        if name in folders or "\0" in name or any(part in {"", ".", ".."} for part in name.split("/")):
            raise FetchFailed(f"The object {one_line(source.shown, 300)} cannot be a file of the model's folder.")
    _check_names(address, list(files))
    return files


def _check_names(address: str, names: Sequence[str]) -> None:
    if not any(name in CONFIGS or name.endswith(".gguf") for name in names):
        there = one_line(", ".join(sorted(names)[:5]), 200)
        raise FetchFailed(f"{address} is no model: it has no config.json (it has {there or 'nothing'}).")


def _is_present(target: Path, files: dict[str, S3Object]) -> bool:
    try:
        return target.is_dir() and all((target / name).stat().st_size == each.size for name, each in files.items())
    except OSError:
        return False


def _name(bucket: str, objects: Sequence[S3Object], key: str) -> str:
    """Choose the folder's name, which replies carry: the last one of the address."""
    name = posixpath.basename(key.rstrip("/")) or bucket
    if len(objects) == 1:
        for suffix in archive.SUFFIXES:
            name = name.removesuffix(suffix)
    return re.sub(r"[^\w.+@-]", "_", name).strip(".") or "model"


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= SHOWN_IN_GB else f"{size / 1e6:.1f} MB"
