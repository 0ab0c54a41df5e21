"""Make recordings and forms, and a model's speech without an engine."""

import io
import wave
from collections.abc import Mapping, Sequence

import numpy as np

from lmi_chat.audio import decode
from lmi_chat.audio.wav import Samples
from lmi_chat.job import Clip, Recording, SpeechSpec
from lmi_chat.limits import Limits

RATE, CLIP_S = 16_000, 30
FIRST_TIME = 1000
BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """Samples of 16 bits that no resampling of another noise would give."""
    drawn = np.random.default_rng(seed).standard_normal(int(rate * seconds)) * 3000
    return drawn.astype("<i2")


def recording(seconds: float = 1.0, rate: int = RATE, seed: int = 0) -> bytes:
    """A WAV file of noise."""
    return written(noise(seconds, rate, seed).tobytes(), rate=rate)


def written(samples: bytes, *, rate: int = RATE, channels: int = 1, width: int = 2) -> bytes:
    """A WAV file by Python's own writer."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples)
    return made.getvalue()


def form(fields: Mapping[str, str | Sequence[str]], file: bytes | None = None) -> bytes:
    """A form as clients write it."""
    named = [(name, one) for name, value in fields.items() for one in ([value] if isinstance(value, str) else value)]
    parts = [f'content-disposition: form-data; name="{name}"\r\n\r\n{text}'.encode() for name, text in named]
    if file is not None:
        head = 'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        parts.append(head.encode() + file)
    mark = f"--{BOUNDARY}".encode()
    return b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"


def nearest(samples: Samples, rate: int, wanted: int) -> Samples:
    """Resample, badly."""
    places = np.linspace(0, len(samples), int(len(samples) * wanted / rate), endpoint=False).astype(int)
    found: Samples = samples[places]
    return found


def read(data: bytes, limits: Limits) -> Recording:
    """A recording in clips of 30 s."""
    samples = decode.decode(data, RATE, limits, nearest)
    most = RATE * CLIP_S
    parts = [samples[at : at + most] for at in range(0, len(samples), most)]
    clips = [Clip(part, place * CLIP_S, len(part) / RATE) for place, part in enumerate(parts)]
    return Recording(clips=clips, seconds=len(samples) / RATE, audio_tokens=100)


SPEECH = SpeechSpec(
    read=read,
    languages={"en": "English", "ja": "Japanese"},
    others={"la": "Latin"},
    unspaced=frozenset({"ja"}),
    has_times=True,
    first_time_id=FIRST_TIME,
    finds_language=True,
)
