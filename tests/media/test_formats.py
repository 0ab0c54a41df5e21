import io
import zipfile

import pytest

from lmi_chat.file_formats import KINDS, Kind
from lmi_chat.media.formats import Unfit, check
from tests.support.media import MP4, PNG, WAV, WEBM

FILES: dict[str, tuple[bytes, set[Kind]]] = {
    "PNG": (PNG, {"image"}),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(8), {"image"}),
    "GIF": (b"GIF89a" + bytes(8), {"image"}),
    "WEBP": (b"RIFF\0\0\0\0WEBP", {"image"}),
    "BMP": (b"BM\x10\0\0\0\0\0\0\0", {"image"}),
    "TIFF": (b"II*\0" + bytes(8), {"image"}),
    "AVIF": (b"\0\0\0\x1cftypavif", {"image"}),
    "WAV": (WAV, {"audio"}),
    "FLAC": (b"fLaC" + bytes(8), {"audio"}),
    "AIFF": (b"FORM\0\0\0\0AIFF", {"audio"}),
    "MP3": (b"ID3\x04" + bytes(8), {"audio"}),
    "Ogg": (b"OggS" + bytes(8), {"audio", "video"}),
    "MP4": (MP4, {"audio", "video"}),
    "Matroska": (WEBM, {"audio", "video"}),
    "AVI": (b"RIFF\0\0\0\0AVI ", {"video"}),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_of_its_kinds_alone(name: str, kind: Kind) -> None:
    data, kinds = FILES[name]
    if kind in kinds:
        assert check(kind, data) == name
        return
    with pytest.raises(Unfit, match=r"^must be (an image|audio|a video), it is "):
        check(kind, data)


def test_a_frame_of_mp3_without_a_head() -> None:
    assert check("audio", b"\xff\xfb\x90\x00") == "MP3"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='x'/>",
        b"%!PS-Adobe-3.0 EPSF",
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"\x7fELF",
        b"MZ",
        b"#!/bin/sh",
        b"RIFF",
    ],
)
def test_what_is_no_media(data: bytes) -> None:
    with pytest.raises(Unfit, match=r"must be an image, (it is empty|its first bytes are of no format)"):
        check("image", data)


@pytest.mark.parametrize(
    ("kind", "declared", "is_fit"),
    [
        ("image", "image/jpeg", True),  # a word for a word: decoders go by the bytes
        ("image", "application/octet-stream", True),
        ("image", "", True),
        ("image", "text/html", False),
        ("image", "image/../text", True),
        ("image", "video/mp4", False),
        ("image", "application/json", False),
        ("image", "application/pdf", False),
    ],
)
def test_the_declared_type(kind: Kind, declared: str, *, is_fit: bool) -> None:
    if is_fit:
        assert check(kind, PNG, declared) == "PNG"
        return
    with pytest.raises(Unfit, match=f"must be an image, its type is {declared}"):
        check(kind, PNG, declared)


def test_sound_in_a_videos_file() -> None:
    assert check("audio", MP4, "video/mp4") == "MP4"
    assert check("video", WEBM, "video/webm") == "Matroska"


def zipped(**options: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.class", b"x" * 100)
        file.comment = options.get("comment", b"")
    return archive.getvalue()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (PNG + zipped(), "ZIP archive"),
        (PNG + zipped(comment=b"c" * 1000), "ZIP archive"),
        (PNG[:33] + b"%PDF-1.4" + PNG[33:], "PDF"),
    ],
)
def test_two_things_at_once(data: bytes, word: str) -> None:
    with pytest.raises(Unfit, match=f"must be an image alone, its bytes are a {word} too"):
        check("image", data)


def test_what_only_looks_like_the_end_of_an_archive() -> None:
    """By chance, in one picture of thousands."""
    assert check("image", PNG + b"PK\x05\x06" + bytes(40)) == "PNG"
    assert check("image", PNG + b"PK\x05\x06") == "PNG"
    assert check("image", PNG + b"PK\x05\x06" + b"\x07" * 18) == "PNG"
