"""Samples of every plain kind of WAV, and broken files."""

import struct

import numpy as np
import pytest

from lmi_chat.audio import wav
from tests.support.speech import noise, recording, written


def made(coding: int, bits: int, samples: bytes, *, channels: int = 1, rate: int = 16_000, extra: bytes = b"") -> bytes:
    form = struct.pack("<HHIIHH", coding, channels, rate, 0, 0, bits) + extra
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"LIST\x03\0\0\0abc\0"
    return b"RIFF\0\0\0\0WAVE" + chunks + b"data" + struct.pack("<I", len(samples)) + samples


HALF = [0.5, -0.5, 0.0, -1.0]
EXTENSION = struct.pack("<HHI", 22, 16, 4) + struct.pack("<H", 1) + bytes(14)


@pytest.mark.parametrize(
    "data",
    [
        made(1, 8, bytes([192, 64, 128, 0])),
        made(1, 16, struct.pack("<4h", 16384, -16384, 0, -32768)),
        made(1, 24, b"".join(struct.pack("<i", value)[:3] for value in (4194304, -4194304, 0, -8388608))),
        made(1, 32, struct.pack("<4i", 2**30, -(2**30), 0, -(2**31))),
        made(3, 32, struct.pack("<4f", *HALF)),
        made(3, 64, struct.pack("<4d", *HALF)),
        made(0xFFFE, 16, struct.pack("<4h", 16384, -16384, 0, -32768), extra=EXTENSION),
    ],
)
def test_each_kind_of_samples(data: bytes) -> None:
    samples, rate = wav.read(data, 600)
    assert samples.tolist() == HALF
    assert samples.dtype == np.dtype(np.float32)
    assert rate == 16_000


def test_channels_are_mixed_and_the_rate_is_told() -> None:
    both = np.stack([noise(0.1), noise(0.1, seed=1)], axis=1)
    samples, rate = wav.read(written(both.tobytes(), channels=2, rate=44_100), 600)
    assert rate == 44_100
    assert samples == pytest.approx(both.mean(axis=1) / 32768, abs=1e-6)


def test_what_a_stream_wrote_without_knowing_its_size() -> None:
    data = recording(0.5)
    endless = data[:40] + b"\xff\xff\xff\xff" + data[44:]
    assert len(wav.read(endless, 600)[0]) == 8000
    assert len(wav.read(data[:-101], 600)[0]) == 7949, "an odd byte at the end is no sample"


def test_no_more_is_read_than_may_be_taken() -> None:
    assert len(wav.read(recording(5), 1)[0]) == 2 * 16_000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"RIFF\0\0\0\0WAVE", "no samples"),
        (b"RIFF\0\0\0\0WAVEdata\x02\0\0\0ab", "no samples"),
        (made(1, 16, b"")[:30], "no samples"),
        (made(1, 16, b"ab", channels=0), "0 channels"),
        (made(1, 16, b"ab", rate=0), "0 samples a second"),
    ],
)
def test_broken_files(data: bytes, says: str) -> None:
    with pytest.raises(wav.BadWav, match=says):
        wav.read(data, 600)


@pytest.mark.parametrize(("coding", "bits"), [(2, 4), (6, 8), (7, 8), (85, 16), (3, 16), (1, 0)])
def test_other_codings_are_not_plain(coding: int, bits: int) -> None:
    with pytest.raises(wav.NotPlain):
        wav.read(made(coding, bits, bytes(8), channels=4), 600)


def test_silence() -> None:
    samples, rate = wav.read(wav.silence(seconds=2), 600)
    assert (len(samples), rate) == (32_000, 16_000)
    assert not samples.any()
