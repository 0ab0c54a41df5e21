"""Hosts that media are fetched from, with every bad manner; files of every kind; a renderer without an engine."""

import base64
import contextlib
import io
import ssl
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from lmi_chat.file_formats import Kind
from lmi_chat.job import MediaInput
from lmi_chat.limits import MediaLimits
from lmi_chat.media import Fetcher, Media, MediaAccess, MediaItem, MediaPrompt

LOOPBACK = (ip_network("127.0.0.1/32"),)
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00" + bytes(20)
MP4 = b"\0\0\0\x18ftypisom" + bytes(16)
WEBM = b"\x1aE\xdf\xa3" + bytes(16)


def png(red: int = 0, green: int = 0, blue: int = 0, *, size: tuple[int, int] = (8, 8), rows: int = 0) -> bytes:
    """A picture of one colour; with `rows` its data are of so many alone, whatever its head says."""
    width, height = size
    row = b"\0" + bytes((red, green, blue)) * width
    data = zlib.compress(row * (rows or height), 9)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """Bytes as a data: URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


PNG = png(255)


def video(*, frames: int = 8, size: tuple[int, int] = (56, 56), rate: int = 4, shade: int = 30) -> bytes:
    """An MP4 of grey frames, each lighter by `shade` than the one before."""
    import av
    import numpy as np

    held = io.BytesIO()
    with av.open(held, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for place in range(frames):
            pixels = np.full((size[1], size[0], 3), place * shade % 256, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return held.getvalue()


class Host(ThreadingHTTPServer):
    """A host on the loopback whose paths say how it behaves; `asked` are those that it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []

    @property
    def port(self) -> int:
        return self.server_address[1]

    def url(self, path: str, name: str = "good.test") -> str:
        return f"http://{name}:{self.port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Host
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the library's word
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name, _, rest = self.path[1:].partition("/")
        self.close_connection = True
        with contextlib.suppress(OSError):
            getattr(self, f"_{name}")(rest)

    def _send(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"content_type": "image/png", "content_length": str(len(data))} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _png(self, _rest: str) -> None:
        self._send(PNG)

    def _to(self, rest: str) -> None:
        self._send(b"", 302, location=base64.urlsafe_b64decode(rest).decode())

    def _round(self, rest: str) -> None:
        self._send(b"", 307, location=f"/round/{int(rest or 0) + 1}")

    def _html(self, _rest: str) -> None:
        self._send(b"<html>", content_type="text/html")

    def _liar(self, _rest: str) -> None:
        self._send(b"<html><script>", content_type="image/png")

    def _missing(self, _rest: str) -> None:
        self._send(b"", 404)

    def _short(self, _rest: str) -> None:
        self._send(PNG[:20], content_length=str(len(PNG)))

    def _packed(self, _rest: str) -> None:
        self._send(zlib.compress(bytes(10**6)), content_encoding="gzip")

    def _large(self, _rest: str) -> None:
        self._send(PNG, content_length=str(10**9))

    def _chunked(self, _rest: str) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")

    def _drip(self, _rest: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            self.wfile.write(b"x")
            time.sleep(0.02)

    def _silent(self, _rest: str) -> None:
        time.sleep(5)

    def _junk(self, _rest: str) -> None:
        self.wfile.write(b"SSH-2.0-x\r\n\r\n")


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A key and a certificate that it signed itself, for one host's `name`: `DNS:good.test`, `IP:127.0.0.1`."""
    key, signed = folder / "key.pem", folder / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=media"]
    words += ["-addext", f"subjectAltName={name}", "-keyout", str(key), "-out", str(signed)]
    subprocess.run(words, check=True, capture_output=True)
    return key, signed


@contextlib.contextmanager
def host(tls: tuple[Path, Path] | None = None) -> Iterator[Host]:
    """A running host; `tls`: key and certificate of one that is asked by https."""
    with Host() as running:
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(tls[1], tls[0])
            running.socket = context.wrap_socket(running.socket, server_side=True)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Names:
    """What names resolve to: one list of addresses after the other, the last one for good."""

    def __init__(self, **names: Sequence[Sequence[str]]) -> None:
        self._names = {name.replace("_", "."): list(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    def __call__(self, name: str, _port: int) -> Sequence[str]:
        self.asked.append(name)
        answers = self._names.get(name, [[name]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


def fetcher(running: Host, names: Callable[[str, int], Sequence[str]] | None = None, **limits: Any) -> Fetcher:
    """A fetcher to which the host's address is as good as public, and no other."""
    found = names or Names(good_test=[["127.0.0.1"]])
    hosts = frozenset({f"*.test:{running.port}", "*"})
    access = MediaAccess(hosts=hosts, networks=LOOPBACK, resolve=found)
    return Fetcher(access, MediaLimits(**limits))


PREPARED_BYTES = 2**20


class FakeRenderer:
    """Writes what it is given as text: an image is [image:bytes], of three tokens. `rendered` counts its calls.

    What becomes of an item has PREPARED_BYTES.
    """

    takes_embeddings = False

    def __init__(self, **most: int) -> None:
        self.most: Mapping[Kind, int] = most  # type: ignore[assignment]
        self.rendered = 0
        self.variables: Mapping[str, Any] = {}

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], items: Mapping[str, MediaItem], variables: Mapping[str, Any]
    ) -> MediaPrompt:
        self.variables = variables
        pieces = list[str]()
        for message in messages:
            content: Any = message["content"]
            parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
            pieces += [part["text"] if part["type"] == "text" else part[part["type"]]["url"] for part in parts]
        return self.render_text(pieces, items)

    def render_text(self, pieces: Sequence[str], items: Mapping[str, MediaItem]) -> MediaPrompt:
        self.rendered += 1
        texts = [f"[{items[one].kind}:{len(items[one].data)}]" if one in items else one for one in pieces]
        text = "".join(texts)
        tokens: dict[str, int] = {}
        for item in items.values():
            tokens[item.kind] = tokens.get(item.kind, 0) + 3
        return MediaPrompt(list(text.encode()), text, MediaInput({}, tokens, len(items) * PREPARED_BYTES))


def media(renderer: FakeRenderer | None = None, access: MediaAccess | None = None, **limits: Any) -> Media:
    """Media of a model that takes three images in a prompt, and fetches none."""
    return Media(renderer or FakeRenderer(image=3), Fetcher(access or MediaAccess(), MediaLimits(**limits)))
