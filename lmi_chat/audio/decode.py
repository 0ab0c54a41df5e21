"""Decode a recording into mono samples, within bounds on its size, its seconds and the time that it takes.

Plain WAV is read here; everything else by FFmpeg, through the package av where it is installed. No process of its own
is needed: each frame is small, and after each the bounds are looked at.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from lmi_chat import file_formats
from lmi_chat.audio import wav
from lmi_chat.audio.wav import Samples
from lmi_chat.errors import BadField, Problem
from lmi_chat.limits import Limits
from lmi_chat.text import echo, one_line

Resample = Callable[[Samples, int, int], Samples]
"""Samples, their rate and the wanted one → samples."""
FIELD = "file"
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000
CAUSE_CHARS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one recording may cost, and the names of the settings that say so; `field`: where the request has it.

    `count` counts bytes of samples, and raises a BadField where there is no room for them.
    """

    field: str
    seconds: float
    decode_s: float
    seconds_key: str
    decode_key: str
    count: Callable[[int], None] = lambda _: None

    def bad(self, text: str) -> BadField:
        """Say what is wrong with the recording."""
        return BadField([Problem(self.field, f"{self.field} {text}")])

    def too_long(self) -> BadField:
        """Say that it has more seconds than are taken."""
        return self.bad(f"must have at most {self.seconds:g} seconds (option.{self.seconds_key}), got more")


def decode(data: bytes, rate: int, limits: Limits, resample: Resample) -> Samples:
    """The samples of an uploaded recording at `rate`, mono, from -1 to 1. Raises BadField. Takes seconds."""
    bounds = Bounds(
        field=FIELD,
        seconds=limits.max_audio_seconds,
        decode_s=limits.max_audio_decode_seconds,
        seconds_key="max_audio_seconds",
        decode_key="max_audio_decode_seconds",
    )
    if len(data) > limits.max_audio_bytes:
        text = f"must have at most {limits.max_audio_bytes} bytes (option.max_audio_bytes), got {len(data)}"
        raise bounds.bad(text)
    samples, own_rate = sound(data, bounds, rate)
    return samples if own_rate == rate else _finite(resample(samples, own_rate, rate))


def sound(data: bytes, bounds: Bounds, rate: int = 0) -> tuple[Samples, int]:
    """The samples of a recording, mono, from -1 to 1, and their rate: its own or, from FFmpeg, `rate` unless 0.

    Raises BadField. Takes seconds: use a thread.
    """
    if not data:
        raise bounds.bad("is empty")
    form = file_formats.of(data)
    if not form.demuxer:
        kinds = ", ".join(file_formats.RECORDINGS)
        raise bounds.bad(f"must be a recording ({kinds}), got bytes that begin with {echo(data[:8].hex())}")
    if form is file_formats.WAV:
        with contextlib.suppress(wav.NotPlain):
            return _plain(data, bounds)
    return _by_ffmpeg(data, form, rate, bounds)


def _finite(samples: Samples) -> Samples:
    """Files of floating point may say anything."""
    return np.ascontiguousarray(np.nan_to_num(samples, copy=False, nan=0.0, posinf=1.0, neginf=-1.0), np.float32)


def _plain(data: bytes, bounds: Bounds) -> tuple[Samples, int]:
    try:
        samples, rate = wav.read(data, bounds.seconds)
    except wav.BadWav as error:
        raise bounds.bad(f"is no whole WAV file: {error}") from error
    _check_rate(rate, bounds)
    if len(samples) > rate * bounds.seconds:
        raise bounds.too_long()
    bounds.count(samples.nbytes)
    return _checked(samples, bounds), rate


def _check_rate(rate: int, bounds: Bounds) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise bounds.bad(f"must have from {LOWEST_RATE} to {HIGHEST_RATE} samples a second, got {rate}")


def _checked(samples: Samples, bounds: Bounds) -> Samples:
    if not len(samples):
        raise bounds.bad("has no sound")
    return _finite(samples)


def _by_ffmpeg(data: bytes, form: file_formats.Format, rate: int, bounds: Bounds) -> tuple[Samples, int]:
    try:
        import av
    except ImportError as error:
        text = f"must be a WAV file of plain samples here, got {form.name}: the server lacks the package av"
        raise bounds.bad(text) from error
    try:
        with av.open(BytesIO(data), format=form.demuxer) as container:
            own_rate = _own_rate(container, bounds)
            rate = rate or own_rate
            found = list(_frames(av, container, rate, bounds))
    except BadField:
        raise
    except Exception as error:  # FFmpeg's, for any broken file, in many classes
        raise bounds.bad(f"cannot be decoded as {form.name}: {one_line(str(error), CAUSE_CHARS)}") from error
    return _checked(np.concatenate(found) if found else np.zeros(0, np.float32), bounds), rate


def _own_rate(container: Any, bounds: Bounds) -> int:
    if not container.streams.audio:
        raise bounds.bad("has no sound")
    rate = int(container.streams.audio[0].rate or 0)
    _check_rate(rate, bounds)
    return rate


def _frames(av: Any, container: Any, rate: int, bounds: Bounds) -> Iterator[Samples]:
    """The samples, some at a time. Raises BadField, and whatever FFmpeg does.

    Channels are averaged here: FFmpeg would add them up, louder than each was.
    """
    end, most = time.monotonic() + bounds.decode_s, int(rate * bounds.seconds)
    resampler = av.AudioResampler(format="fltp", rate=rate)
    for frame in _then_none(container):
        if time.monotonic() > end:
            text = f"takes longer to decode than {bounds.decode_s:g} seconds (option.{bounds.decode_key})"
            raise bounds.bad(text)
        for part in resampler.resample(frame):
            samples = part.to_ndarray().mean(axis=0, dtype=np.float32)
            most -= len(samples)
            if most < 0:
                raise bounds.too_long()
            bounds.count(samples.nbytes)
            yield samples


def _then_none(container: Any) -> Iterator[Any]:
    """Each frame of the first sound, then None: the resampler gives what it holds back."""
    yield from container.decode(container.streams.audio[0])
    yield None
