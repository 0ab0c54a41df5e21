"""Read and write the files that requests name below one folder: no `..`, no symbolic link, no other scheme."""

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from lmi_chat.errors import BadField, Problem, TooLarge
from lmi_chat.text import echo

Parts = tuple[str, ...]
FILE_URL = "InputLocation"


class Folder:
    """Files below one folder, each named by the parts of its path."""

    def __init__(self, path: Path) -> None:
        """`path` is a folder that exists."""
        self._given, self.path = path.absolute(), path.resolve()

    def parts(self, location: str) -> Parts:
        """Split a file:// URL into the path below the folder. Raises BadField."""
        try:
            url = urlsplit(location)
        except ValueError:
            raise _bad(f"must be a file:// URL, got {echo(location)}") from None
        path = PurePosixPath(unquote(url.path))
        if url.scheme != "file" or url.netloc not in {"", "localhost"} or url.query or url.fragment:
            raise _bad(f"must be a file:// URL, got {echo(location)}")
        base = next((base for base in (self._given, self.path) if path.is_relative_to(base)), None)
        parts = path.relative_to(base).parts if base else ()
        if not parts or ".." in parts or "\0" in url.path or "%00" in url.path:
            raise _bad(f"must name a file in option.async_folder, got {echo(location)}")
        return parts

    def url(self, parts: Parts) -> str:
        """Return the file:// URL of a file."""
        return self.path.joinpath(*parts).as_uri()

    def has(self, parts: Parts) -> bool:
        """Whether anything has that name."""
        try:
            with self._folder_of(parts) as folder:
                os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        return True

    def check(self, parts: Parts, most: int) -> None:
        """Check a file. Raises BadField if it is no regular file, TooLarge if it has more than `most` bytes."""
        os.close(self._open(parts, most))

    def read(self, parts: Parts, most: int) -> bytes:
        """Read the bytes of a file. Raises as `check`."""
        with os.fdopen(self._open(parts, most), "rb") as file:
            data = file.read(most + 1)
        if len(data) > most:  # it has grown meanwhile
            raise _too_large(most)
        return data

    def write(self, parts: Parts, data: bytes) -> None:
        """Create or replace a file atomically, with the folders above it. Raises OSError."""
        name = f".{parts[-1][:64]}.{uuid.uuid4().hex}"
        with self._folder_of(parts, is_made=True) as folder:
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=folder)
            try:
                with os.fdopen(file, "wb") as opened:
                    opened.write(data)
                os.replace(name, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                raise

    def _open(self, parts: Parts, most: int) -> int:
        try:
            with self._folder_of(parts) as folder:
                # a pipe without a writer would wait for one
                file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            raise _bad(f"cannot be read: {error.strerror}") from None
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode) and found.st_size <= most:
            return file
        os.close(file)
        raise _too_large(most) if stat.S_ISREG(found.st_mode) else _bad("must name a regular file")

    @contextlib.contextmanager
    def _folder_of(self, parts: Parts, *, is_made: bool = False) -> Iterator[int]:
        """Open the folder of the last part, one part at a time, without following links."""
        here = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                if is_made:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=here)
                there = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = there
            yield here
        finally:
            os.close(here)


def _bad(text: str) -> BadField:
    return BadField([Problem(FILE_URL, f"{FILE_URL} {text}")])


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"{FILE_URL} names a file of more than {most} bytes", param=FILE_URL)
