"""Read WAV files of plain samples, without a library."""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
HEADER, CHUNK, FORMAT, SUBFORMAT = 12, 8, 16, 26
Samples = npt.NDArray[np.float32]


class NotPlain(Exception):
    """A WAV file of another coding, which a library may read."""


class BadWav(Exception):
    """A WAV file that is broken; the message says how."""


def read(data: bytes, most_seconds: float) -> tuple[Samples, int]:
    """Mono samples from -1 to 1 and their rate, of at most a little more than `most_seconds`.

    Raises NotPlain, BadWav. A file whose sizes promise more than there is, as streams write them, has what there is.
    """
    coding, channels, rate, bits, at, size = _layout(data)
    kind, width = _kind(coding, bits), bits // 8 * channels
    if not channels or not rate:
        raise BadWav(f"its head says {channels} channels and {rate} samples a second")
    frames = min(size, len(data) - at) // width
    frames = min(frames, int(rate * (most_seconds + 1)))
    found = _samples(memoryview(data)[at : at + frames * width], kind, bits)
    if channels > 1:
        found = found.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return found, rate


def _layout(data: bytes) -> tuple[int, int, int, int, int, int]:
    """Coding, channels, rate, bits, and where the samples are and how many bytes they have."""
    form: tuple[int, int, int, int] | None = None
    at = HEADER
    while at + CHUNK <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + CHUNK], "little")
        at += CHUNK
        if name == b"fmt " and size >= FORMAT and at + FORMAT <= len(data):
            coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data, at)
            if coding == EXTENSIBLE and size >= SUBFORMAT and at + SUBFORMAT <= len(data):
                coding = int.from_bytes(data[at + SUBFORMAT - 2 : at + SUBFORMAT], "little")
            form = (coding, channels, rate, bits)
        if name == b"data" and form is not None:
            return *form, at, size
        at += size + size % 2
    raise BadWav("it has no samples, or none behind their description")


def _kind(coding: int, bits: int) -> Any:
    kinds = {
        (PCM, 8): "u1",
        (PCM, 16): "<i2",
        (PCM, 24): "u1",
        (PCM, 32): "<i4",
        (FLOAT, 32): "<f4",
        (FLOAT, 64): "<f8",
    }
    if (coding, bits) not in kinds:
        raise NotPlain
    return kinds[coding, bits]


def _samples(data: memoryview, kind: str, bits: int) -> Samples:
    if bits == 24:  # noqa: PLR2004 no number of that size has a type of its own
        parts = np.frombuffer(data, "u1").reshape(-1, 3)
        whole = np.zeros((len(parts), 4), "u1")
        whole[:, 1:] = parts
        return whole.view("<i4").reshape(-1).astype(np.float32) / np.float32(2**31)
    values = np.frombuffer(data, kind)
    if kind == "u1":
        return (values.astype(np.float32) - np.float32(128)) / np.float32(128)
    if kind.startswith("<i"):
        return values.astype(np.float32) / np.float32(2 ** (bits - 1))
    return values.astype(np.float32)


def silence(*, seconds: int, rate: int = 16_000) -> bytes:
    """Write a file in which nothing is to be heard, of 16 bits and one channel."""
    size = 2 * rate * seconds
    head = struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, PCM, 1, rate, 2 * rate, 2, 16, b"data", size
    )
    return head + bytes(size)
