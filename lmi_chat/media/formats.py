"""Check by their bytes that media are of the kind that they are sent as, and no other thing at once.

Only formats that are named here reach a decoder: an image library's other formats run programs or are seldom looked at.
"""

import re
from collections.abc import Mapping
from io import BytesIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from lmi_chat import file_formats
from lmi_chat.file_formats import Kind

OTHER_KINDS = re.compile(
    r"(image|audio|video|text|font|model|multipart|message)/|application/(json|xml|xhtml\+xml|pdf|zip)"
)
DECLARED: Mapping[Kind, tuple[str, ...]] = {
    "image": ("image/",),
    "audio": ("audio/", "video/", "application/ogg"),
    "video": ("video/", "audio/", "application/ogg"),
}
PDF, PDF_BYTES = b"%PDF-", 1024
"""Readers take a file for a PDF where this stands among its first bytes."""
END_OF_ZIP, ENTRY_OF_ZIP, END_BYTES = b"PK\x05\x06", b"PK\x01\x02", 22
COMMENT_BYTES = 2**16
ZIP, NUMPY = b"PK\x03\x04", b"\x93NUMPY"
TENSOR = "must be a tensor as torch.save or numpy.save writes it"


class Unfit(Exception):
    """Media that no decoder is shown; the message says why, in words that follow the field's name."""


def check(kind: Kind, data: bytes, declared: str = "") -> str:
    """Return the name of the format that `data` are in; `declared`: the media type that came with it. Raises Unfit."""
    if OTHER_KINDS.match(declared) and not declared.startswith(DECLARED[kind]):
        raise Unfit(f"must be {_one(kind)}, its type is {declared}")
    name, kinds, _ = file_formats.of(data)
    if kind not in kinds:
        found = (
            f"it is {_one(next(iter(kinds)))} ({name})" if kinds else "its first bytes are of no format that is read"
        )
        raise Unfit(f"must be {_one(kind)}, {found}" if data else f"must be {_one(kind)}, it is empty")
    if second := _second(data):
        raise Unfit(f"must be {_one(kind)} alone, its bytes are a {second} too")
    return name


def check_tensor(data: bytes) -> None:
    """Check that `data` are a tensor's file which is as large as what it holds. Raises Unfit.

    torch.load reads compressed archives, and pickles alone as files of its older form, which state any size.
    """
    if data.startswith(NUMPY):
        return
    if not data.startswith(ZIP):
        raise Unfit(TENSOR)
    try:
        with ZipFile(BytesIO(data)) as archive:
            entries = archive.infolist()
    except (BadZipFile, ValueError, NotImplementedError):
        raise Unfit(f"{TENSOR}, its archive cannot be read") from None
    is_stored = all(entry.compress_type == ZIP_STORED for entry in entries)
    if not is_stored or sum(entry.file_size for entry in entries) > len(data):
        raise Unfit(f"{TENSOR}, its archive is compressed")


def _one(kind: Kind) -> str:
    return {"image": "an image", "audio": "audio", "video": "a video"}[kind]


def _second(data: bytes) -> str:
    """Name what the bytes are beside what they begin as, or ""."""
    if PDF in data[:PDF_BYTES]:
        return "PDF"
    return "ZIP archive" if _ends_as_zip(data) else ""


def _ends_as_zip(data: bytes) -> bool:
    """Whether a ZIP archive stands behind or inside: its end is there, and the entries that it counts."""
    tail = data[-(END_BYTES + COMMENT_BYTES) :]
    at = tail.rfind(END_OF_ZIP)
    if at < 0 or len(tail) - at < END_BYTES:
        return False
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    place = len(data) - len(tail) + at - size
    return size > 0 and place >= 0 and data.startswith(ENTRY_OF_ZIP, place)
