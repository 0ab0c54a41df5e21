"""What media that mean harm cost, and how long others wait while an image is decoded: docs/media-safety.md's figures.

    python bench/media.py [--runs 3]

The server is a process of its own: the real renderers of two small models, around scripted engines. Time is from the
request to its answer; memory is by how much the process grows at most meanwhile, above what it had before.
"""

import argparse
import http.client
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from tests.support import media_bombs
from tests.support.media import data_url
from tests.support.scripted import Scripted, said

SIZE = 5000, 4000
TOKENS, GAP_S = 1500, 0.01
Ports = tuple[int, int]


def serve() -> None:
    """Serve until standard input ends."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Scripted(said("a " * TOKENS, gap_s=GAP_S))
        with media_bombs.serving_both(Path(folder), engine) as ports:
            print(json.dumps(ports), flush=True)
            sys.stdin.read()


def memory(pid: int, name: str) -> int:
    """MiB of a process: VmRSS now, VmHWM at most since `forget`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(name))


def forget(pid: int) -> int:
    """Have the kernel count the most anew; gives what the process has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory(pid, "VmRSS")


def bombs(pid: int, ports: Ports, runs: int) -> None:
    """Print a row for each bomb, its longest run."""
    for name in media_bombs.BOMBS:
        body, seconds, most = media_bombs.body_of(name), 0.0, 0
        for _ in range(runs):
            before, began = forget(pid), time.monotonic()
            status, message = media_bombs.ask(ports, name, body)
            seconds = max(seconds, time.monotonic() - began)
            most = max(most, memory(pid, "VmHWM") - before)
            if status != HTTPStatus.BAD_REQUEST:
                raise SystemExit(f"{name} got {status}: {message}")
        print(f"| {name} | {message.partition(' ')[2]} | {seconds * 1000:.0f} ms | {most} MiB |")


def picture(name: str) -> bytes:
    """A chat with a picture of 20 megapixels that no format makes small."""
    from PIL import Image

    held = io.BytesIO()
    sigma = 40 if name == "JPEG" else 3  # a PNG of more noise is longer than a body may be
    Image.effect_noise(SIZE, sigma).convert("RGB").save(held, name, quality=80)
    part = {"type": "image_url", "image_url": {"url": data_url(held.getvalue(), f"image/{name.lower()}")}}
    return json.dumps({"messages": [{"role": "user", "content": [part]}], "stream": True, "max_tokens": 1}).encode()


def gap(ports: Ports, body: bytes | None, times: int) -> tuple[float, float]:
    """The longest gap of a stream, and the time to the first byte of `times` chats with pictures meanwhile."""
    connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=60)
    chat = {"messages": [{"role": "user", "content": "a"}], "stream": True}
    connection.request("POST", "/invocations", json.dumps(chat), {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read1(2**16)
    longest, taken, is_over = 0.0, list[float](), threading.Event()

    def ask() -> None:
        began = time.monotonic()
        other = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=60)
        other.request("POST", "/invocations", body, {"content-type": "application/json"})
        first = other.getresponse()
        if first.status != HTTPStatus.OK:
            print(first.status, first.read(500), file=sys.stderr)
        elif first.read1(1):
            taken.append(time.monotonic() - began)
        other.close()

    def ask_all() -> None:
        time.sleep(0.5)
        threads = [threading.Thread(target=ask) for _ in range(times)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(0.5)
        is_over.set()

    threading.Thread(target=ask_all).start()
    last = time.monotonic()
    while not is_over.is_set() and answer.read1(2**16):
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    connection.close()
    if not is_over.wait(60) or len(taken) < times:
        raise SystemExit("a chat with a picture was not answered")
    return longest, max(taken, default=0.0)


def main(words: Sequence[str]) -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args(words).runs
    command = [sys.executable, __file__, "serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        line = next(line for line in child.stdout or () if line.startswith(b"["))
        first, second = json.loads(line)
        media_bombs.ask((first, second), "", media_bombs.body_of(""))
        bombs(child.pid, (first, second), runs)
        for name, times in (("", 0), ("JPEG", 1), ("PNG", 1), ("JPEG", 8)):
            body = picture(name) if name else None
            found = [gap((first, second), body, times) for _ in range(runs)]
            longest, taken = max(one for one, _ in found), max(one for _, one in found)
            print(f"| {times} × {name or 'none'} | {longest * 1000:.0f} ms | {taken * 1000:.0f} ms |")
        child.communicate(timeout=60)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main(sys.argv[1:])
