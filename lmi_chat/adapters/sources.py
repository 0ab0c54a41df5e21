"""Fetch an adapter's files from a folder, an archive, S3 or the hub, into a folder of ours.

They are copied, so that nobody changes them while the engine may still read them.
"""

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from lmi_chat.adapters.files import FileRules
from lmi_chat.errors import AdaptersFull, BadAdapter, Error, NotFound, Unavailable
from lmi_chat.fetching import DiskFull, FetchFailed, SourceMissing, SourceUnreachable, archive, hub, s3
from lmi_chat.fetching.archive import ArchiveBound
from lmi_chat.fetching.s3_download import Download, S3Object
from lmi_chat.text import echo, one_line

FETCHES = 4
"""Sources that are fetched at once; others wait."""
STAGING = ".source"
"""In the folder that is filled: files stand there until they are checked."""
ADVICE = "it needs a larger disk"


class AdapterSources:
    """Fetches the files of adapters, a few at once."""

    def __init__(self, rules: FileRules | None = None) -> None:
        self._rules = rules or FileRules()
        self._threads = ThreadPoolExecutor(FETCHES, "adapters")

    async def fetch(self, src: str, into: Path) -> None:
        """Fill the empty folder `into` with an adapter's files from `src`.

        That is a folder or a tar archive here (a path or `file://`), `s3://bucket/folder/`, `s3://bucket/name.tar.gz`
        or `hf://owner/name[@revision][/folder]`. Raises NotFound, BadAdapter; Unavailable where it cannot be asked.
        """
        await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, src, into)

    def _fetch(self, src: str, into: Path) -> None:
        staging = into / STAGING
        try:
            staging.mkdir()
            found, is_local = self._find(src, staging)
            self._rules.keep(src, found, into, is_local=is_local)
        except FetchFailed as error:
            raise _error_of(error) from error
        except OSError as error:
            name = one_line(str(error.filename or src), 200)
            if error.errno in s3.NO_SPACE:
                raise AdaptersFull(f"src: the disk is full: {name} was not copied", param="src") from error
            raise BadAdapter(f"src: {name} cannot be read or copied: {error.strerror}", param="src") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _find(self, src: str, staging: Path) -> tuple[Path, bool]:
        """Find the folder with the files of `src`, fetched where it is elsewhere; True where it is on this machine."""
        match src.partition("://")[0].lower() if "://" in src else "":
            case "s3":
                return self._from_s3(src, staging), False
            case "hf":
                return self._from_hub(src, staging), False
            case "file" | "":
                return self._from_disk(src, staging), True
        raise FetchFailed(f"src must be a path, or begin with file://, s3:// or hf://, got {echo(src)}")

    def _from_disk(self, src: str, staging: Path) -> Path:
        path = _path(src)
        if path.is_dir():
            inside = list(path.iterdir())
            if len(inside) != 1 or not inside[0].name.endswith(archive.SUFFIXES):
                return path
            path = inside[0]
        if not path.is_file():
            raise SourceMissing(f"there is nothing at {echo(src)}")
        if not path.name.endswith(archive.SUFFIXES):
            raise FetchFailed(f"{echo(src)} is neither a folder nor an archive ({', '.join(archive.SUFFIXES)})")
        return self._unpacked(path, src, staging)

    def _unpacked(self, packed: Path, src: str, staging: Path) -> Path:
        target = staging / "unpacked"
        target.mkdir()
        limits = self._rules.limits
        archive.unpack(packed, one_line(src, 200), target, _pass_over, ArchiveBound(limits.files, limits.bytes))
        return target

    def _from_s3(self, src: str, staging: Path) -> Path:
        address = s3.ADDRESS.fullmatch(src)
        if not address:
            raise FetchFailed(f"{echo(src)} is no address in S3: s3://bucket/folder/ or s3://bucket/adapter.tar.gz")
        bucket, key = address["bucket"], address["key"] or ""
        with s3.Sentences(one_line(src, 200), bucket, staging, ADVICE):
            client = s3.client(src)
            if key.endswith(archive.SUFFIXES):
                return self._unpacked(self._packed(client, src, bucket, key, staging), src, staging)
            begin = key if not key or key.endswith("/") else f"{key}/"
            objects = {each.key.removeprefix(begin): each for each in s3.below(client, bucket, begin)}
            names = self._rules.wanted(src, {name: each.size for name, each in objects.items()}, is_local=False)
            _download(client, {staging / name: objects[name] for name in names})
        return staging

    def _packed(self, client: Any, src: str, bucket: str, key: str, staging: Path) -> Path:
        """Fetch one archive."""
        found = next((each for each in s3.below(client, bucket, key) if each.key == key), None)
        if found is None:
            raise SourceMissing(f"there is nothing at {echo(src)}")
        self._rules.check_bytes(src, found.size)
        packed = staging / "packed.tar"
        _download(client, {packed: found})
        return packed

    def _from_hub(self, src: str, staging: Path) -> Path:
        owner, _, rest = src[len("hf://") :].strip("/").partition("/")
        named, _, folder = rest.partition("/")
        name, _, revision = named.partition("@")
        if not owner or not name or ".." in folder.split("/"):
            raise FetchFailed(f"src must be hf://owner/name, also with @revision and /folder, got {echo(src)}")
        begin = f"{folder}/" if folder else ""

        def choose(sizes: dict[str, int]) -> list[str]:
            below = {each.removeprefix(begin): size for each, size in sizes.items() if each.startswith(begin)}
            return [begin + each for each in self._rules.wanted(src, below, is_local=False)]

        hub.fetch(one_line(src, 200), f"{owner}/{name}", revision or None, staging, choose)
        return staging.joinpath(*PurePosixPath(folder).parts)


def _download(client: Any, wanted: dict[Path, S3Object]) -> None:
    download = Download(client, ((each, path) for path, each in wanted.items()))
    download.fetch(lambda: None)
    download.check(lambda: None)


def _path(src: str) -> Path:
    """Read a path or a file:// URL of this machine. Raises FetchFailed."""
    if "://" not in src:
        if "\0" in src:
            raise FetchFailed(f"src must be a path, got {echo(src)}")
        return Path(src)
    parts = urlsplit(src)
    path = unquote(parts.path)
    if parts.netloc not in {"", "localhost"} or not path or "\0" in path:
        raise FetchFailed(f"src must be file:///folder or file:///adapter.tar.gz, got {echo(src)}")
    return Path(path)


def _pass_over(_share: float) -> None:
    """Show nothing of how far it is."""


def _error_of(error: FetchFailed) -> Error:
    kind = {SourceMissing: NotFound, SourceUnreachable: Unavailable, DiskFull: AdaptersFull}.get(
        type(error), BadAdapter
    )
    return kind(f"src: {error}", param="src")
