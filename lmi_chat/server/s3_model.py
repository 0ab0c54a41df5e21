"""Fetch a model from S3, a folder of objects or a tar archive, into the cache.

In the cache's folder `s3/` each address has a folder: `blobs/` holds its objects, each by key and ETag, and beside it
each version (all keys and ETags) has a folder with the model's files, links to the blobs or what the archive held. A
version gets its name by one rename, so what carries the name is whole; a start that finds it asks for the list alone.
"""

import errno
import functools
import hashlib
import json
import posixpath
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lmi_chat.config.settings import S3_ADDRESS
from lmi_chat.server import model_archive, model_cache
from lmi_chat.server.model_cache import FetchFailed
from lmi_chat.server.progress import Progress
from lmi_chat.server.s3_download import CONNECTIONS, Download, S3Object, remove_partials
from lmi_chat.text import one_line

FOLDER = "s3"
PHASES = {"download": 20, "check": 3, "unpack": 5}
MAX_OBJECTS = 10_000
SHOWN_IN_GB = 10**8
LOG_S = 10.0
"""Between two lines about a download where there is no terminal."""
CONFIGS = ("config.json", "params.json")
"""A model's folder has one of these, or a GGUF file: Hugging Face's, Mistral AI's."""
DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "403", "Forbidden"})
BAD_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def fetch(address: str, cache: Path | None = None, reach: Callable[[float], None] = lambda _: None) -> Path:
    """Fetch the model at `address` into `cache` (by default model_cache.root()), unless it is there; gives its folder.

    `reach` hears what part is done, 0 to 1; progress is also shown on stderr. One process works at an address, others
    wait for it. What an interrupted download left is used by the next one. Blocks: use a thread. Raises FetchFailed.
    """
    found = S3_ADDRESS.fullmatch(address)
    if not found:
        raise FetchFailed(
            f"{one_line(address, 200)} is no address in S3: s3://bucket/folder/ or s3://bucket/model.tar.gz."
        )
    bucket, key = found["bucket"], found["key"] or ""
    cache = (cache or model_cache.root()).absolute() / FOLDER
    with _Sentences(address, bucket, cache):
        client = _client(address)
        objects = _list(client, bucket, key)
        if not objects:
            raise FetchFailed(f"There is nothing at {address}: no object's key begins so.")
        is_archive = len(objects) == 1 and objects[0].key.endswith(model_archive.SUFFIXES)
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
        return _inner(target) if is_archive else target


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
                        model_archive.unpack(paths[objects[0]], self._address, model, progress.reach)
                    _check_names(self._address, [path.name for path in _inner(model).iterdir()])
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


class _Sentences:
    """Turns boto3's errors, and the disk's, inside its block into one sentence."""

    def __init__(self, address: str, bucket: str, cache: Path) -> None:
        self._address, self._bucket, self._cache = address, bucket, cache

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Raise FetchFailed in the place of what was raised."""
        if error is None or isinstance(error, FetchFailed):
            return
        from botocore.exceptions import BotoCoreError, ClientError

        # botocore's errors of connections are OSErrors too
        if isinstance(error, ClientError):
            raise FetchFailed(self._of_answer(error.response)) from error
        if isinstance(error, BotoCoreError):
            raise FetchFailed(self._of_client(error)) from error
        if isinstance(error, OSError):
            raise FetchFailed(self._of_disk(error)) from error

    def _of_disk(self, error: OSError) -> str:
        if error.errno in NO_SPACE:
            return f"The disk of {self._cache} is full: {self._address} was not fetched whole; what is there stays."
        return (
            f"{self._address} cannot be kept in {self._cache} ({error.strerror}): set download_dir (or LMI_CHAT_CACHE)."
        )

    def _of_answer(self, response: dict[str, Any]) -> str:
        code, said = response["Error"].get("Code", ""), one_line(response["Error"].get("Message", ""), 200)
        if code == "NoSuchBucket":
            return f"There is no bucket {self._bucket} ({self._address})."
        if code in DENIED:
            rights = f"s3:ListBucket on the bucket {self._bucket} and s3:GetObject on its objects"
            return f"Access to {self._address} is denied: the role or user of this process needs {rights}."
        if code in BAD_CREDENTIALS:
            return f"S3 does not accept the AWS credentials of this process ({code}): {self._address} was not fetched."
        if code in {"PreconditionFailed", "412"}:
            return f"{self._address} was changed while it was fetched: start again."
        return f"S3 refused {self._address}: {said or 'no reason given'} ({code})."

    def _of_client(self, error: Exception) -> str:
        from botocore import exceptions

        if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
            return (
                f"There are no AWS credentials to read {self._address} with: give the endpoint or the machine a role, "
                "or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        said = one_line(str(error), 300).rstrip(".")
        if isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError)):
            return f"S3 cannot be reached for {self._address}: {said}. What has arrived stays for the next start."
        return f"{self._address} cannot be fetched: {said}."


def _client(address: str) -> Any:
    """Build boto3's client: credentials, region and endpoint are where boto3 looks for them. Raises FetchFailed."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise FetchFailed(
            f"{address} needs boto3, which is not installed: pip install boto3 (lmi-chat's extra aws)."
        ) from error
    return boto3.session.Session().client(
        "s3",
        config=Config(
            max_pool_connections=CONNECTIONS,
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 4},
            response_checksum_validation="when_required",  # a range has none of its own; whole files are checked
        ),
    )


def _list(client: Any, bucket: str, key: str) -> list[S3Object]:
    """List the objects of the folder, or the one archive. Raises FetchFailed, botocore's errors."""
    if key.endswith(model_archive.SUFFIXES):
        one = [each for each in _below(client, bucket, key) if each.key == key]
        if one:
            return one
    objects = list(_below(client, bucket, key if not key or key.endswith("/") else f"{key}/"))
    return objects or _refuse_one_file(bucket, key, next(_below(client, bucket, key), None))


def _refuse_one_file(bucket: str, key: str, found: S3Object | None) -> list[S3Object]:
    if found and found.key == key:
        ends = ", ".join(model_archive.SUFFIXES)
        raise FetchFailed(f"s3://{bucket}/{key} is one file: name a folder of model files, or an archive ({ends}).")
    return []


def _below(client: Any, bucket: str, prefix: str) -> Iterator[S3Object]:
    """List what begins with `prefix`, but for the markers of folders. Raises FetchFailed beyond MAX_OBJECTS."""
    count = 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Contents", []):
            if not each["Key"].endswith("/"):
                yield S3Object(bucket, each["Key"], each["ETag"], each["Size"])
                count += 1
        if count > MAX_OBJECTS:
            raise FetchFailed(
                f"s3://{bucket}/{prefix} holds more than {MAX_OBJECTS} objects: name the model's own folder."
            )


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


def _inner(folder: Path) -> Path:
    """Find the model in an unpacked archive: its one folder, where it has nothing else."""
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _name(bucket: str, objects: Sequence[S3Object], key: str) -> str:
    """Choose the folder's name, which replies carry: the last one of the address."""
    name = posixpath.basename(key.rstrip("/")) or bucket
    if len(objects) == 1:
        for suffix in model_archive.SUFFIXES:
            name = name.removesuffix(suffix)
    return re.sub(r"[^\w.+@-]", "_", name).strip(".") or "model"


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= SHOWN_IN_GB else f"{size / 1e6:.1f} MB"
