"""Store S3 objects as files: in ranges, several at once, resumed after an interruption, and checked.

A file grows as `<name>.part`; the ranges that stand in it are listed in `<name>.ranges`, a line each, so that a killed
process's successor asks for the others only. It gets its name when all of it is there and checked.
"""

import base64
import contextlib
import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmi_chat.fetching import FetchFailed

CONNECTIONS = 16
RANGE_BYTES = 32 << 20
CHUNK_BYTES = 1 << 20
TRIES = 5
"""Of a range, one after another without a byte in between; botocore repeats what fails before the first byte itself."""
LOOK_S = 0.2
MD5_CHARS = 32
NOT_MD5 = ("aws:kms", "aws:kms:dsse")
"""Encryptions whose ETag is no digest of the content."""
EXPRESS = "--x-s3"
"""The end of a directory bucket's name; ETags are no digests there."""


@dataclass(frozen=True, slots=True)
class S3Object:
    """An object as its bucket lists it."""

    bucket: str
    key: str
    etag: str
    size: int

    @property
    def shown(self) -> str:
        """Its address."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class _Partial:
    """A file that grows."""

    source: S3Object
    path: Path

    @property
    def part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def ranges(self) -> Path:
        return self.path.with_name(f"{self.path.name}.ranges")

    def missing(self) -> list[int]:
        """List the beginnings of the ranges that are not there."""
        begins = range(0, self.source.size, RANGE_BYTES)
        with contextlib.suppress(OSError):
            if self.part.stat().st_size == self.source.size:
                lines = self.ranges.read_text().splitlines()
                there = {int(line) * RANGE_BYTES for line in lines if line.isdecimal()}
                return [begin for begin in begins if begin not in there]
        return [*begins]

    def missing_bytes(self) -> int:
        return sum(min(RANGE_BYTES, self.source.size - begin) for begin in self.missing())

    def remove(self) -> None:
        for path in (self.ranges, self.part):
            path.unlink(missing_ok=True)


class Download:
    """Objects of S3 on their way to files of a folder."""

    def __init__(self, client: Any, wanted: Iterable[tuple[S3Object, Path]]) -> None:
        """`client` is boto3's; `wanted`: each object and its file, which may be there or have begun."""
        self._client = client
        self._partials = [_Partial(source, path) for source, path in wanted if not _is_whole(source, path)]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.total_bytes = sum(partial.missing_bytes() for partial in self._partials)
        self.done_bytes = 0

    def fetch(self, look: Callable[[], None]) -> None:
        """Ask for the ranges that are missing; `look` is called now and then. Raises FetchFailed, botocore's errors."""
        ranges: list[tuple[_Partial, int]] = []
        for partial in self._partials:
            missing = partial.missing()
            if len(missing) == len(range(0, partial.source.size, RANGE_BYTES)):
                partial.remove()  # whatever it is, nothing of it counts
                with partial.part.open("wb") as file:
                    file.truncate(partial.source.size)
            ranges += [(partial, begin) for begin in missing]
        self._all(self._range, ranges, look)

    def check(self, look: Callable[[], None]) -> None:
        """Compare each file with the digest that S3 has of it, and give it its name. Raises FetchFailed.

        All of them, so that the next start begins anew with every file that is wrong.
        """
        wrong: list[_Partial] = []
        self._all(self._finish, [(partial, wrong) for partial in self._partials], look)
        if wrong:
            raise FetchFailed(f"{wrong[0].source.shown} did not arrive as S3 has it (wrong checksum): start again.")

    def _all(self, work: Callable[..., None], given: Sequence[tuple[Any, ...]], look: Callable[[], None]) -> None:
        with ThreadPoolExecutor(CONNECTIONS, "s3") as pool:
            waiting: set[Future[None]] = {pool.submit(work, *each) for each in given}
            try:
                while waiting:
                    done, waiting = wait(waiting, LOOK_S, FIRST_EXCEPTION)
                    for each in done:
                        each.result()
                    look()
            finally:
                self._stop.set()  # those that still run are of no use after an error
                pool.shutdown(cancel_futures=True)
        self._stop.clear()

    def _range(self, partial: _Partial, begin: int) -> None:
        """Write one range into its file and note that it is there."""
        from botocore.exceptions import ConnectionError as ConnectionFailed
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        at, end, tries = begin, min(begin + RANGE_BYTES, partial.source.size), 0
        file = os.open(partial.part, os.O_WRONLY)
        try:
            while at < end and not self._stop.is_set():
                before = at
                try:
                    for chunk in self._chunks(partial.source, at, end):
                        os.pwrite(file, chunk, at)
                        at += len(chunk)
                        self._count(len(chunk))
                except (HTTPClientError, IncompleteReadError, ConnectionFailed):
                    tries = tries + 1 if at == before else 1
                    if tries >= TRIES:
                        raise
                    self._stop.wait(0.1 * 2**tries)
        finally:
            os.close(file)
        if at == end:
            with self._lock, partial.ranges.open("a") as done:
                done.write(f"{begin // RANGE_BYTES}\n")

    def _chunks(self, source: S3Object, begin: int, end: int) -> Iterator[bytes]:
        answer = self._client.get_object(
            Bucket=source.bucket, Key=source.key, Range=f"bytes={begin}-{end - 1}", IfMatch=source.etag
        )
        if answer["ContentLength"] != end - begin:
            raise FetchFailed(f"{source.shown} came with {answer['ContentLength']} bytes in place of {end - begin}.")
        with contextlib.closing(answer["Body"]) as body:
            for chunk in body.iter_chunks(CHUNK_BYTES):
                yield chunk
                if self._stop.is_set():
                    return

    def _count(self, many: int) -> None:
        with self._lock:
            self.done_bytes += many

    def _finish(self, partial: _Partial, wrong: list[_Partial]) -> None:
        if not self._is_right(partial):
            partial.remove()
            wrong.append(partial)
            return
        partial.part.rename(partial.path)
        partial.ranges.unlink(missing_ok=True)

    def _is_right(self, partial: _Partial) -> bool:
        """Whether the file has the digest that S3 knows; True where S3 knows none of the whole content."""
        source, etag = partial.source, partial.source.etag.strip('"')
        named: dict[str, Any] = {"Bucket": source.bucket, "Key": source.key, "IfMatch": source.etag}
        head = self._client.head_object(**named, ChecksumMode="ENABLED")
        is_md5 = (
            head.get("ServerSideEncryption") not in NOT_MD5
            and "SSECustomerAlgorithm" not in head
            and not source.bucket.endswith(EXPRESS)
        )
        digest, _, parts = etag.partition("-")
        if is_md5 and len(digest) == MD5_CHARS and not parts:
            return _digest(partial.part, "md5") == digest
        if is_md5 and len(digest) == MD5_CHARS and parts.isdecimal():
            size = self._client.head_object(Bucket=source.bucket, Key=source.key, PartNumber=1)["ContentLength"]
            if size and -(-source.size // size) == int(parts):
                return _digest_of_parts(partial.part, size) == digest
        return _has_checksum(partial.part, head)


def remove_partials(folder: Path, kept: Iterable[Path]) -> None:
    """Remove what began to be downloaded into `folder` and is none of the files `kept`."""
    names = {name for path in kept for name in (f"{path.name}.part", f"{path.name}.ranges")}
    for path in folder.iterdir():
        if path.suffix in {".part", ".ranges"} and path.name not in names:
            path.unlink(missing_ok=True)


def _is_whole(source: S3Object, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size == source.size
    return False


def _digest(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()


def _digest_of_parts(path: Path, size: int) -> str:
    """Compute a multipart upload's ETag: MD5 of the parts' MD5s."""
    whole = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        left = path.stat().st_size
        while left > 0:
            part, rest = hashlib.md5(usedforsecurity=False), min(size, left)
            left -= rest
            while rest and (chunk := file.read(min(CHUNK_BYTES, rest))):
                part.update(chunk)
                rest -= len(chunk)
            whole.update(part.digest())
    return whole.hexdigest()


def _has_checksum(path: Path, head: dict[str, Any]) -> bool:
    """Compare with a checksum of the whole object, where it has one that the standard library computes."""
    for key, name in (("ChecksumSHA256", "sha256"), ("ChecksumSHA1", "sha1")):
        if "-" not in (known := head.get(key, "-")):
            return base64.b64decode(known).hex() == _digest(path, name)
    if "-" not in (known := head.get("ChecksumCRC32", "-")):
        code = 0
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                code = zlib.crc32(chunk, code)
        return base64.b64decode(known) == code.to_bytes(4, "big")
    return True
