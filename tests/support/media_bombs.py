"""Make media that would cost a server dearly; docs/media-safety.md tells what each is answered, and what it costs."""

import base64
import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.support.media import data_url, png, video
from tests.support.media_folders import hearing_folder, qwen_folder
from tests.support.rendering import media_of, rendering
from tests.support.scripted import Scripted, serving

Parts = list[dict[str, Any]]
HOUR_S, SOUND_RATE = 3600, 8000
MOST_BYTES = 32 * 2**20
"""Of a body."""


def images(count: int, width: int, height: int, *, rows: int = 0) -> Parts:
    """The same picture so many times."""
    url = data_url(png(size=(width, height), rows=rows))
    return [{"type": "image_url", "image_url": {"url": url}}] * count


def silence() -> Parts:
    """An hour of FLAC."""
    import av
    import numpy as np

    held = io.BytesIO()
    with av.open(held, "w", format="flac") as file:
        stream = file.add_stream("flac", rate=SOUND_RATE)
        for _ in range(HOUR_S // 60):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 60 * SOUND_RATE), np.int16), format="s16", layout="mono")
            frame.sample_rate = SOUND_RATE
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return sound(held.getvalue())


def sound(data: bytes) -> Parts:
    return [{"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "flac"}}]


def tensor(make: Callable[[Any], Any], *, is_compressed: bool = False) -> Parts:
    """Embeddings as torch.save writes them."""
    import torch

    held, packed = io.BytesIO(), io.BytesIO()
    torch.save(make(torch), held)
    if is_compressed:
        with zipfile.ZipFile(held) as given, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
            for entry in given.infolist():
                made.writestr(entry.filename, given.read(entry))
    data = base64.b64encode((packed if is_compressed else held).getvalue()).decode()
    return [{"type": "image_embeds", "image_embeds": {"image_embeds": data}}]


def sparse(torch: Any) -> Any:
    place = torch.zeros((2, 1), dtype=torch.int64)
    return torch.sparse_coo_tensor(place, torch.ones(1), (20_000, 20_000), check_invariants=True)


def film(**form: Any) -> Parts:
    return [{"type": "video_url", "video_url": {"url": data_url(video(**form), "video/mp4")}}]


BOMBS: Mapping[str, Callable[[], Parts]] = {
    "a PNG that says 50,000 × 50,000 pixels": lambda: images(1, 50_000, 50_000, rows=1),
    "a PNG that says 8,000 × 8,000 pixels": lambda: images(1, 8000, 8000, rows=1),
    "5 images of 40 megapixels": lambda: images(5, 8000, 5000),
    "32 images of 20 megapixels": lambda: images(32, 5000, 4000),
    "a video of an hour": lambda: film(frames=HOUR_S, rate=1),
    "an hour of FLAC": silence,
    "a list of other files as a recording": lambda: sound(b"#EXTM3U\nfile:///etc/passwd\n"),
    "embeddings of 300 MB, compressed": lambda: tensor(lambda torch: torch.zeros(75_000_000), is_compressed=True),
    "embeddings of 1.6 GB, sparse": lambda: tensor(sparse),
}
"""What each is made of, by its name in the table."""
HEARD = frozenset({"an hour of FLAC", "a list of other files as a recording"})
"""Those that are sent to a model that hears; the others to one that sees."""


def body_of(name: str) -> bytes:
    """A chat that brings one of BOMBS; "": a harmless image."""
    parts = BOMBS[name]() if name else images(1, 56, 56)
    return json.dumps({"messages": [{"role": "user", "content": parts}]}).encode()


@contextlib.contextmanager
def serving_both(folder: Path, engine: Scripted | None = None) -> Iterator[tuple[int, int]]:
    """Run two servers around scripted engines, one that sees and one that hears; gives their ports."""
    most = {"limit_mm_per_prompt": {"image": 32, "video": 1}}
    with (
        rendering(qwen_folder(folder / "seeing"), enable_mm_embeds=True, **most) as seeing,
        rendering(hearing_folder(folder / "hearing")) as hearing,
        serving(engine, media=media_of(seeing), max_body_bytes=MOST_BYTES) as eyes,
        serving(media=media_of(hearing), max_body_bytes=MOST_BYTES) as ears,
    ):
        yield eyes.port, ears.port


def ask(ports: tuple[int, int], name: str, body: bytes) -> tuple[int, str]:
    """Send one of BOMBS, or "", to the server that it is for; gives status and message."""
    with httpx.Client(timeout=120) as client:
        url = f"http://127.0.0.1:{ports[name in HEARD]}/invocations"
        reply = client.post(url, content=body, headers={"content-type": "application/json"})
    return reply.status_code, reply.json().get("error", {}).get("message", "")
