"""How long /ping takes: every 50 ms from the port's opening until the server is ready, then under concurrent requests.

    python bench/ping.py [--requests 256] [--tokens 64] [--repeat 1] [any key of lmi-chat serve: --dtype float32 …]

Prints the worst and the 99th percentile in milliseconds. SageMaker gives a ping 2 s; the goal here is 250 ms.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import multiprocessing
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

EVERY_S = 0.05
PORT = re.compile(r"listening on http://[^:]+:(\d+)")


def ping(port: int) -> tuple[float, int]:
    """Seconds and status of one ping, on a connection of its own as the platform's."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/ping")
        answer = connection.getresponse()
        answer.read()
    return time.perf_counter() - began, answer.status


def sample(port: int, is_over: Callable[[int], bool]) -> list[float]:
    """Ping every EVERY_S until `is_over` says so of a status."""
    found: list[float] = []
    while True:
        began = time.perf_counter()
        seconds, status = ping(port)
        found.append(seconds)
        if is_over(status):
            return found
        time.sleep(max(0.0, EVERY_S - (time.perf_counter() - began)))


async def ask(port: int, tokens: int) -> None:
    """One streamed chat, read to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    messages = [{"role": "user", "content": "Tell a long story."}]
    body = json.dumps({"messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": True})
    head = "POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    data = await reader.read()
    writer.close()
    if not data.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(data[:200].decode(errors="replace"))


async def ask_all(port: int, requests: int, tokens: int) -> None:
    """All at once."""
    await asyncio.gather(*(ask(port, tokens) for _ in range(requests)))


def load(port: int, requests: int, tokens: int) -> None:
    """A process of its own, so that it does not hold up the pings."""
    asyncio.run(ask_all(port, requests, tokens))


def show(what: str, seconds: list[float]) -> None:
    """One line of the table."""
    worst = [f"{1000 * value:.0f}" for value in sorted(seconds, reverse=True)[:5]]
    p99 = 1000 * statistics.quantiles(seconds, n=100)[98]
    print(f"{what:<28} pings {len(seconds):>5}   p99 {p99:>6.0f} ms   worst {', '.join(worst)} ms", flush=True)


def measure(arguments: list[str], requests: int, tokens: int) -> None:
    """One server from its start to its end."""
    with tempfile.TemporaryFile("w+") as log:
        words = [sys.executable, "-m", "lmi_chat", "serve", "--host", "127.0.0.1", "--port", "0"]
        server = subprocess.Popen([*words, "--access-log", "off", *arguments], stdout=log, stderr=log)
        try:
            port = _port(server, Path(f"/proc/self/fd/{log.fileno()}"))
            show("while loading", sample(port, lambda status: status == 200 or server.poll() is not None))  # noqa: PLR2004
            asking = multiprocessing.get_context("spawn").Process(target=load, args=(port, requests, tokens))
            asking.start()
            show(f"{requests} requests at once", sample(port, lambda _: not asking.is_alive()))
            if asking.exitcode:
                raise SystemExit("the requests failed")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def _port(server: "subprocess.Popen[bytes]", log: Path) -> int:
    while server.poll() is None:
        found = PORT.search(log.read_text())
        if found:
            return int(found[1])
        time.sleep(0.02)
    raise SystemExit(log.read_text())


def main() -> None:
    """Read the options; the others are the server's."""
    parser = argparse.ArgumentParser(description="Measure /ping.", allow_abbrev=False)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=1)
    known, rest = parser.parse_known_args()
    for _ in range(known.repeat):
        measure(rest, known.requests, known.tokens)


if __name__ == "__main__":
    main()
