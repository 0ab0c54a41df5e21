"""Unpack a tar archive into a folder, and nothing outside it.

Files and folders are made by their names, which must stay inside. Links are never made on the way, so that no file can
be written through one: afterwards each becomes a second name of the unpacked file that it points to. The size of all
files and their number have a bound.
"""

import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from lmi_chat.fetching import FetchFailed
from lmi_chat.text import one_line

SUFFIXES = (".tar.gz", ".tgz", ".tar")
MAX_FILES = 10_000
MAX_RATIO = 10
"""Unpacked bytes per packed byte, beside MAX_EXTRA_BYTES; weights hardly shrink."""
MAX_EXTRA_BYTES = 1 << 30
MAX_DEPTH = 64
"""Folders in one another; those of one name would be thousands, too deep to be deleted again."""
MAX_LINKS = 10
"""Links that lead to one another before a file comes."""
CHUNK_BYTES = 1 << 20
HEADER_BYTES = 1 << 20
"""Of a member's long name or extended header, which are read into memory before the member is seen."""
HEADERS = frozenset(
    {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
)


@dataclass(frozen=True, slots=True)
class ArchiveBound:
    """The most that is unpacked from an archive: so many files, folders and links, and bytes of files."""

    files: int
    size: int


class _Member(tarfile.TarInfo):
    """A member whose headers have a bound."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read the header block of a member. Raises TarError for a further header that is too long."""
        member = super().frombuf(buf, encoding, errors)
        if member.type in HEADERS and not 0 <= member.size <= HEADER_BYTES:
            raise tarfile.ReadError(f"a header has {member.size} bytes, of at most {HEADER_BYTES}")
        return member


def unpack(
    archive: Path, name: str, target: Path, reach: Callable[[float], None], bound: ArchiveBound | None = None
) -> None:
    """Unpack `archive`, called `name` in errors, into the empty folder `target`; `reach` hears how much is read.

    `bound` None: that of a model's archive of this size. Raises FetchFailed for an archive that is broken, too large or
    not to be trusted, OSError for the disk.
    """
    packed = archive.stat().st_size
    bound = bound or ArchiveBound(MAX_FILES, MAX_RATIO * packed + MAX_EXTRA_BYTES)
    left, count, links = bound.size, 0, dict[str, str]()
    try:
        with archive.open("rb") as source, tarfile.open(fileobj=source, mode="r|*", tarinfo=_Member) as members:
            for member in members:
                count, left = count + 1, left - member.size
                if count > bound.files or left < 0:
                    most = f"{bound.files} files and {bound.size / 1e9:.1f} GB"
                    raise FetchFailed(f"{name} holds more than {most}, the most that is unpacked from an archive.")
                inside = _inside(name, member.name)
                if member.isdir():
                    (target / inside).mkdir(parents=True, exist_ok=True)
                elif member.issym():
                    links[inside] = posixpath.join(posixpath.dirname(inside), member.linkname)
                elif member.islnk():
                    links[inside] = member.linkname
                elif member.isfile() and (content := members.extractfile(member)) is not None:
                    _write(content, target / inside)
                else:
                    raise FetchFailed(f"{name} holds {_shown(member.name)}, which is no file, folder or link.")
                reach(source.tell() / packed)
    except (tarfile.TarError, EOFError, zlib.error, ValueError, RecursionError) as error:  # tarfile lets numbers pass
        raise FetchFailed(f"{name} is broken: {one_line(str(error), 200)}.") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise FetchFailed(f"{name} holds two files of one name ({error.filename}).") from error
    for link in links:
        _link(name, target, link, links)


def inner(folder: Path) -> Path:
    """Find the files of an unpacked archive: its one folder, where it has nothing else."""
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _inside(name: str, member: str) -> str:
    """Normalise a member's name. Raises FetchFailed where it leads out of the folder."""
    inside = posixpath.normpath(member)
    if "\0" in inside or posixpath.isabs(inside) or inside.partition("/")[0] == "..":
        raise FetchFailed(f"{name} holds {_shown(member)}, which leads out of its folder: it is not unpacked.")
    if inside.count("/") > MAX_DEPTH:
        raise FetchFailed(f"{name} holds {_shown(member)}, with more than {MAX_DEPTH} folders in one another.")
    return inside


def _write(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        while chunk := content.read(CHUNK_BYTES):
            file.write(chunk)


def _link(name: str, target: Path, link: str, links: dict[str, str]) -> None:
    """Give the file that `link` points to its second name. Raises FetchFailed where it points elsewhere."""
    found = link
    for _ in range(MAX_LINKS):
        if found not in links:
            break
        found = _inside(name, links[found])
    if found in links or not (target / found).is_file():
        raise FetchFailed(f"{name} holds the link {_shown(link)}, which points to no file of the archive.")
    path = target / link
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(target / found, path)
    except FileExistsError as error:
        raise FetchFailed(f"{name} holds two files of one name ({_shown(link)}).") from error


def _shown(member: str) -> str:
    return one_line(repr(member), 200)
