"""Recordings of every kind within their bounds; those that FFmpeg reads where the package av is installed."""

import importlib.util
import io
import math
import struct
import sys
from typing import Any

import numpy as np
import pytest

from lmi_chat import file_formats
from lmi_chat.audio.decode import Bounds, decode, sound
from lmi_chat.errors import BadField
from lmi_chat.limits import Limits
from tests.support.speech import RATE, nearest, recording

pytestmark = pytest.mark.processes

needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="av is not installed")
CODECS = {
    "FLAC": "flac",
    "MP3": "libmp3lame",
    "Ogg": "libopus",
    "MP4": "aac",
    "Matroska": "libopus",
    "AAC": "aac",
    "AIFF": "pcm_s16be",
}
CONTAINERS = {"AAC": "adts", "Matroska": "webm"}


def read(data: bytes, **limits: Any) -> Any:
    return decode(data, RATE, Limits(**limits), nearest)


def encoded(kind: str, seconds: float, rate: int = 48_000, layout: str = "mono") -> bytes:
    """A tone of 440 Hz, in all channels alike, by FFmpeg."""
    import av

    tone = (np.sin(np.arange(int(seconds * rate)) * 2 * math.pi * 440 / rate) * 16_000).astype("<i2")
    made = io.BytesIO()
    with av.open(made, "w", format=CONTAINERS.get(kind, kind.lower())) as container:
        stream = container.add_stream(CODECS[kind], rate=rate, layout=layout)
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=1024)
        channels = 2 if layout == "stereo" else 1
        frame = av.AudioFrame.from_ndarray(np.repeat(tone, channels).reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = rate
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return made.getvalue()


def test_plain_wav_needs_no_library_and_no_resampling_at_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    samples = read(recording(0.5))
    assert samples[:3].tolist() == [value / 32768 for value in np.frombuffer(recording(0.5)[44:50], "<i2")]
    assert len(read(recording(0.5, rate=44_100))) == RATE // 2
    with pytest.raises(BadField, match="the server lacks the package av"):
        read(b"fLaC" + bytes(100))


@needs_av
@pytest.mark.parametrize("kind", CODECS)
def test_each_kind_is_known_by_its_bytes_and_decoded(kind: str) -> None:
    data = encoded(kind, 2)
    assert file_formats.of(data).name == kind
    samples = read(data)
    assert len(samples) / RATE == pytest.approx(2, abs=0.15)
    middle = samples[RATE // 2 : RATE // 2 + RATE]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == pytest.approx(440, abs=2)


@needs_av
@pytest.mark.parametrize("kind", ["FLAC", "AIFF"])
def test_two_channels_are_as_loud_as_one(kind: str) -> None:
    one, two = (read(encoded(kind, 0.5, RATE, layout)) for layout in ("mono", "stereo"))
    assert np.abs(one).max() == pytest.approx(16_000 / 32_768, abs=1e-3)
    assert two == pytest.approx(one, abs=1e-4)


@needs_av
@pytest.mark.parametrize("kind", ["FLAC", "Ogg"])
def test_a_recording_keeps_its_own_rate_where_none_is_asked_for(kind: str) -> None:
    bounds = Bounds(field="a", seconds=3, decode_s=30, seconds_key="x", decode_key="y")
    samples, rate = sound(encoded(kind, 2), bounds)
    assert rate == 48_000
    assert len(samples) / rate == pytest.approx(2, abs=0.1)
    with pytest.raises(BadField, match=r"^a must have at most 3 seconds \(option\.x\), got more"):
        sound(encoded(kind, 4), bounds)


@needs_av
@pytest.mark.parametrize("kind", CODECS)
def test_what_is_cut_off_or_damaged_is_short_or_an_error(kind: str) -> None:
    data = encoded(kind, 2)
    for damaged in (data[: len(data) // 2], data[:40], data[:20] + bytes(200) + data[220:]):
        try:
            assert len(read(damaged)) <= 2.2 * RATE
        except BadField:
            continue


@needs_av
def test_a_small_file_of_hours_is_refused_long_before_its_end() -> None:
    """An hour of silence in 660 KB: 230 MB of samples if all were decoded."""
    import av

    made = io.BytesIO()
    with av.open(made, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), "<i2"), format="s16", layout="mono")
        frame.sample_rate = RATE
        for _ in range(3600 * RATE // 4096):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(made.getvalue()) < 700_000
    with pytest.raises(BadField, match="at most 600 seconds"):
        read(made.getvalue())
    with pytest.raises(BadField, match="longer to decode than 1e-06 seconds"):
        read(made.getvalue(), max_audio_decode_seconds=1e-6)


@needs_av
def test_a_list_of_other_files_is_no_recording() -> None:
    """FFmpeg would open what a playlist names, where it is left to guess."""
    for text in ("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "ffconcat version 1.0\nfile /etc/passwd\n"):
        with pytest.raises(BadField, match="must be a recording"):
            read(text.encode())
    with pytest.raises(BadField, match=r"cannot be decoded as MP3|has no sound"):
        read(b"ID3\x04\0\0\0\0\0\0" + b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n" * 50)


@needs_av
def test_a_picture_in_a_films_container_has_no_sound() -> None:
    import av

    made = io.BytesIO()
    with av.open(made, "w", format="matroska") as container:
        stream = container.add_stream("rawvideo", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(BadField, match="has no sound"):
        read(made.getvalue())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello there", "must be a recording .* got bytes that begin with"),
        (b"RIFF\0\0\0\0WAVE", "is no whole WAV file: it has no samples"),
        (recording(0), "has no sound"),
        (recording(0.1, rate=10), "from 1000 to 768000 samples a second, got 10"),
        (recording(601, rate=1000), "at most 600 seconds"),
    ],
)
def test_what_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadField, match=says) as caught:
        read(data)
    assert caught.value.param == "file"


def test_bytes_are_bounded() -> None:
    with pytest.raises(BadField, match="at most 1024 bytes"):
        read(recording(1), max_audio_bytes=1024)


def test_numbers_that_are_none_become_silence() -> None:
    values = struct.pack("<4f", math.nan, math.inf, -math.inf, 0.25)
    head = struct.pack("<HHIIHH", 3, 1, RATE, 0, 0, 32)
    data = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", 16) + values
    assert read(data).tolist() == [0.0, 1.0, -1.0, 0.25]
