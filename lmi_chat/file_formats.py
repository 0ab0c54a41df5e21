"""Find the format of an image, a recording or a video by its first bytes."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

Kind = Literal["image", "audio", "video"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Kinds = frozenset[Kind]
IMAGE, AUDIO, VIDEO = frozenset[Kind]({"image"}), frozenset[Kind]({"audio"}), frozenset[Kind]({"video"})
SOUND = AUDIO | VIDEO


class Format(NamedTuple):
    """A file's format: its name, what such a file may be taken for, and FFmpeg's name of it where sound is read.

    FFmpeg is told it and guesses nothing: what it might take a file for includes lists of other files and addresses.
    """

    name: str
    kinds: Kinds
    demuxer: str = ""


NONE = Format("", frozenset())
"""Of a file that nothing here reads."""
MP3, AAC, MP4 = Format("MP3", AUDIO, "mp3"), Format("AAC", AUDIO, "aac"), Format("MP4", SOUND, "mp4")
WAV, AIFF = Format("WAV", AUDIO, "wav"), Format("AIFF", AUDIO, "aiff")
STARTS: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", Format("PNG", IMAGE)),
    (b"\xff\xd8\xff", Format("JPEG", IMAGE)),
    (b"GIF87a", Format("GIF", IMAGE)),
    (b"GIF89a", Format("GIF", IMAGE)),
    (b"II*\0", Format("TIFF", IMAGE)),
    (b"MM\0*", Format("TIFF", IMAGE)),
    (b"fLaC", Format("FLAC", AUDIO, "flac")),
    (b"ID3", MP3),
    (b"OggS", Format("Ogg", SOUND, "ogg")),
    (b"\x1aE\xdf\xa3", Format("Matroska", SOUND, "matroska")),
    (b"FLV\x01", Format("FLV", VIDEO)),
    (b"\0\0\x01\xba", Format("MPEG", VIDEO)),
)
RIFF: Mapping[bytes, Format] = {b"WEBP": Format("WEBP", IMAGE), b"WAVE": WAV, b"AVI ": Format("AVI", VIDEO)}
BRANDS: Mapping[bytes, Format] = {
    b"avif": Format("AVIF", IMAGE),
    b"avis": Format("AVIF", IMAGE),
    b"M4A ": Format("MP4", AUDIO, "mp4"),
}
RECORDINGS = ("WAV", "FLAC", "AIFF", "MP3", "AAC", "Ogg", "MP4", "Matroska")
"""The names of those that sound is read from."""
SYNC, LAYER, ADTS = 0xE0, 0x06, 0xF0
"""Bits of the second byte of a frame of MP3 or AAC: what marks a frame, its layer (none in AAC), AAC's longer mark."""


def of(data: bytes) -> Format:
    """The format of a file, NONE for one that is not read."""
    for start, found in STARTS:
        if data.startswith(start):
            return found
    if data.startswith((b"RIFF", b"RF64")):
        found = RIFF.get(data[8:12], NONE)
        return found if data.startswith(b"RIFF") or found is WAV else NONE
    if data[4:8] == b"ftyp":
        return BRANDS.get(data[8:12], MP4)
    if data.startswith(b"BM") and data[6:10] == bytes(4):
        return Format("BMP", IMAGE)
    if data.startswith(b"FORM") and data[8:12] in {b"AIFF", b"AIFC"}:
        return AIFF
    return _of_frame(data[:2])


def _of_frame(head: bytes) -> Format:
    """The format of sound without a head, by its first frame."""
    if len(head) < 2 or head[0] != 0xFF or head[1] & SYNC != SYNC:  # noqa: PLR2004 eleven bits of two bytes
        return NONE
    if head[1] & LAYER:
        return MP3
    return AAC if head[1] & ADTS == ADTS else NONE
