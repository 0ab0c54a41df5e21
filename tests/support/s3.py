"""An S3 server of its own process (moto's), and a wire to it that counts, stalls and breaks."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
KEYS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def server(**environment: str) -> Iterator[int]:
    """An empty S3 server; gives its port."""
    command = [sys.executable, "-W", "ignore", "-c", SERVER]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout
        yield int(process.stdout.readline())
        process.kill()


def client(port: int, service: str = "s3", **keys: str) -> Any:
    """boto3's client of a service there."""
    return boto3.client(
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id=keys.get("access", "none"),
        aws_secret_access_key=keys.get("secret", "none"),
        config=Config(retries={"max_attempts": 0}),
    )


class Wire:
    """Forwards connections to a port and counts the bytes that come back; after `limit` of them it stalls or breaks."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self.sent = 0
        self.limit: int | None = None
        self.breaks: int | None = 0
        """Connections that are cut at `limit`, which then moves by as much, before one stalls; None: all are cut."""
        self.stalled = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                threading.Thread(target=self._forward, args=(near, far), daemon=True).start()
                threading.Thread(target=self._back, args=(far, near), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_WR)

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError), far, near:
            while data := far.recv(16384):
                if self.limit is not None and self.sent + len(data) > self.limit:
                    if self.breaks == 0:
                        self.stalled.set()
                        threading.Event().wait()
                    if self.breaks is not None:
                        self.breaks -= 1
                        self.limit += self.limit
                    near.shutdown(socket.SHUT_RDWR)
                    return
                self.sent += len(data)
                near.sendall(data)
