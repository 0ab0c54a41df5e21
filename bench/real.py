"""Our server against the engine with nothing before it: tokens a second, and the time to the first token.

    python bench/real.py [--one-layer] [--streams 1,8,32,64] [--rounds 3] [--seconds 8] [any key of lmi-chat serve]

Both have a real engine of the same arguments, and answer the same greedy chats: ours over HTTP, streamed, the other one
from token ids by AsyncLLM.generate (bench/bare.py). They take turns, A B B A; who waits is stopped (SIGSTOP), so that
it costs nothing. The client of ours reads bytes and looks at the last ones alone; it is kept off the cores that the
engine computes on. A first round of each kind is not counted: it tells how many tokens fill `--seconds`.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).parents[1])]

from bench import bare, draw, history
from bench.one_layer import one_layer
from lmi_chat.engine.vllm import arguments
from lmi_chat.server import default_model

PORT = re.compile(r"listening on http://[^:]+:(\d+)")
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
START_S = 900
WARM_TOKENS, LEAST_TOKENS, MOST_TOKENS = 16, 48, 2000
GPU_SHARE = "0.42"
"""Of the GPU's memory for each of the two engines, where nothing else is given."""
Burst = tuple[float, list[float]]
Ask = Callable[[list[bare.Chat], int], Burst]


@contextmanager
def ours(words: list[str], log: Path) -> Iterator[tuple[psutil.Process, Ask]]:
    """`lmi-chat serve`, ready; its process, and how to ask it."""
    command = [sys.executable, "-m", "lmi_chat", "serve", "--host", "127.0.0.1", "--port", "0", "--access-log", "off"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *words], stdout=output, stderr=output)
    try:
        port = _ready(process, log)
        yield psutil.Process(process.pid), lambda chats, tokens: stream(port, chats, tokens)
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def alone(words: list[str]) -> Iterator[tuple[psutil.Process, Ask]]:
    """The bare engine, ready; its process, and how to ask it."""
    spawn = multiprocessing.get_context("spawn")
    pipe, other = spawn.Pipe()
    process = spawn.Process(target=bare.serve, args=(other, words))
    process.start()
    other.close()

    def ask(chats: list[bare.Chat], tokens: int) -> Burst:
        pipe.send((chats, tokens))
        answer: Burst = pipe.recv()
        return answer

    try:
        with suppress(EOFError):
            if not pipe.poll(START_S) or pipe.recv() != "ready":
                raise SystemExit("the bare engine did not start in time")
        if process.pid is None or not process.is_alive():
            raise SystemExit("the bare engine did not start; the lines above say why")
        yield psutil.Process(process.pid), ask
    finally:
        with suppress(OSError):  # it has ended already
            pipe.send(None)
        process.join(60)
        process.kill()


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> int:
    """The port, once /ping says 200."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):  # it has just ended
            found = PORT.search(log.read_text())
            if found and b" 200 " in _exchange(int(found[1]), PING):
                return int(found[1])
        time.sleep(0.2)
    raise SystemExit(f"{log.read_text()[-3000:]}\nour server did not start")


def _exchange(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        return connection.recv(4096)


def stream(port: int, chats: list[bare.Chat], tokens: int) -> Burst:
    """All chats at once, each on a connection that is open already; see bare.serve for what is given back."""
    options = {"max_tokens": tokens, "ignore_eos": True, "temperature": 0, "stream": True}
    options["stream_options"] = {"include_usage": True}
    head = "POST /invocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    requests = []
    for chat in chats:
        body = json.dumps({"messages": chat, **options})
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=600)) for _ in chats]
        began = time.perf_counter()
        for connection, request in zip(opened, requests, strict=True):
            connection.sendall(request)
        firsts, ends = _read(opened, began)
        seconds = time.perf_counter() - began
    for end in ends:
        if f'"completion_tokens":{tokens}'.encode() not in end:
            raise SystemExit(f"an answer is not whole: {end[-500:].decode(errors='replace')}")
    return seconds, firsts


def _read(opened: list[socket.socket], began: float) -> tuple[list[float], list[bytes]]:
    """Until all have ended: when the first bytes came, which are the first token's, and the last bytes of each."""
    firsts: dict[int, float] = {}
    ends = dict.fromkeys((each.fileno() for each in opened), b"")
    open_ones = {each.fileno(): each for each in opened}
    poll = select.epoll()
    for number in open_ones:
        poll.register(number, select.EPOLLIN)
    while open_ones:
        for number, _ in poll.poll():
            data = open_ones[number].recv(65536)
            if data:
                firsts.setdefault(number, time.perf_counter() - began)
                ends[number] = (ends[number] + data)[-4096:]
            else:
                poll.unregister(number)
                del open_ones[number]
    poll.close()
    return [*firsts.values()], [*ends.values()]


def wake(process: psutil.Process, *, is_awake: bool) -> None:
    """Let a process and all its children go on, or stop them."""
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGCONT if is_awake else signal.SIGSTOP)


def turn(sides: dict[str, tuple[psutil.Process, Ask]], name: str, chats: list[bare.Chat], tokens: int) -> Burst:
    """One burst on one side, while the other one stands still."""
    for other, (process, _) in sides.items():
        if other != name:
            wake(process, is_awake=False)
    wake(sides[name][0], is_awake=True)
    return sides[name][1](chats, tokens)


def chats(count: int, number: int) -> list[bare.Chat]:
    """Prompts of which no two are equal, so that each is computed; the same on both sides."""
    return [[{"role": "user", "content": f"{number}.{each}: Tell a long story."}] for each in range(count)]


def measure(
    sides: dict[str, tuple[psutil.Process, Ask]], counts: list[int], rounds: int, seconds: float, name: str
) -> history.Results:
    """Each count of streams, `rounds` times on each side in turns, first the one and then the other."""
    results: dict[str, history.Servers] = {}
    numbers = itertools.count()
    for count in counts:
        warm = [turn(sides, side, chats(count, next(numbers)), WARM_TOKENS)[0] for side in sides]
        tokens = max(LEAST_TOKENS, min(MOST_TOKENS, int(WARM_TOKENS * seconds / max(warm))))
        speeds: dict[str, list[float]] = {side: [] for side in sides}
        firsts: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds):
            asked = chats(count, next(numbers))
            for side in [*sides][:: 1 if number % 2 == 0 else -1]:
                took, waited = turn(sides, side, asked, tokens)
                speeds[side].append(count * tokens / took)
                firsts[side].append(1000 * statistics.mean(waited))
        rate, first = (f"{name}, {count} at once: {what}" for what in ("rate", "first token"))
        results[rate] = {side: history.figure(speeds[side], "tokens/s") for side in sides}
        results[first] = {side: history.figure(firsts[side], "ms") for side in sides}
        for measured in (rate, first):
            told = (f"{side} {f.median:g} ({f.low:g}–{f.high:g}) {f.unit}" for side, f in results[measured].items())
            print(f"{measured:<40} {tokens:>5} tokens each   {'   '.join(told)}", flush=True)
    return results


def main() -> None:
    """Start both, measure, keep the figures, draw them."""
    parser = argparse.ArgumentParser(description="Measure the server against the bare engine.", allow_abbrev=False)
    parser.add_argument("--one-layer", action="store_true")
    parser.add_argument("--streams", default=",".join(map(str, history.COUNTS)), help="at once, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--history", type=Path, default=history.FILE)
    parser.add_argument("--model-id", default="")
    known, rest = parser.parse_known_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = known.model_id or str(default_model.fetch(default_model.folder()))
        words = ["--model-id", model, *rest]
        if known.one_layer:
            words = ["--model-id", str(one_layer(place)), "--load-format", "dummy", *rest]
        if not arguments.is_cpu() and not any("gpu-memory-utilization" in word for word in rest):
            words += ["--gpu-memory-utilization", GPU_SHARE]
        print("starting both engines …", flush=True)
        sides = {history.OURS: stack.enter_context(ours(words, place / "log"))}
        sides[history.BARE] = stack.enter_context(alone(words))
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})  # on a CPU, vLLM computes on the others
        try:
            counts = [int(word) for word in known.streams.split(",")]
            results = measure(
                sides, counts, known.rounds, known.seconds, "one layer" if known.one_layer else "real engine"
            )
        finally:
            os.sched_setaffinity(0, cores)
            for process, _ in sides.values():
                wake(process, is_awake=True)
    name = "one layer" if known.one_layer else Path(model).name
    versions = {"model": name, "arguments": " ".join(rest)} if rest else {"model": name}
    history.append(results, known.history, **versions)
    if known.history == history.FILE:
        draw.update()


if __name__ == "__main__":
    main()
