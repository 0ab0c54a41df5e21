"""Unpack a model's tar archive into a folder, and nothing outside it.

Files and folders are made by their names, which must stay inside. Links are never made on the way, so that no file can
be written through one: afterwards each becomes a second name of the unpacked file that it points to. The size of all
files and their number have a bound.
"""

import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lmi_chat.server.model_cache import FetchFailed
from lmi_chat.text import one_line

SUFFIXES = (".tar.gz", ".tgz", ".tar")
MAX_FILES = 10_000
MAX_RATIO = 10
"""Unpacked bytes per packed byte, beside MAX_EXTRA_BYTES; weights hardly shrink."""
MAX_EXTRA_BYTES = 1 << 30
MAX_LINKS = 10
"""Links that lead to one another before a file comes."""
CHUNK_BYTES = 1 << 20


def unpack(archive: Path, name: str, target: Path, reach: Callable[[float], None]) -> None:
    """Unpack `archive`, called `name` in errors, into the empty folder `target`; `reach` hears how much is read.

    Raises FetchFailed for an archive that is broken, too large or not to be trusted, OSError for the disk.
    """
    packed = archive.stat().st_size
    left, count, links = MAX_RATIO * packed + MAX_EXTRA_BYTES, 0, dict[str, str]()
    try:
        with archive.open("rb") as source, tarfile.open(fileobj=source, mode="r|*") as members:
            for member in members:
                count, left = count + 1, left - member.size
                if count > MAX_FILES or left < 0:
                    most = f"{MAX_FILES} files and {(MAX_RATIO * packed + MAX_EXTRA_BYTES) / 1e9:.1f} GB"
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
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise FetchFailed(f"{name} is broken: {one_line(str(error), 200)}.") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise FetchFailed(f"{name} holds two files of one name ({error.filename}).") from error
    for link in links:
        _link(name, target, link, links)


def _inside(name: str, member: str) -> str:
    """Normalise a member's name. Raises FetchFailed where it leads out of the folder."""
    inside = posixpath.normpath(member)
    if "\0" in inside or posixpath.isabs(inside) or inside.partition("/")[0] == "..":
        raise FetchFailed(f"{name} holds {_shown(member)}, which leads out of the model's folder: it is not unpacked.")
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
