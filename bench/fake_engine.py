"""A stand-in for vLLM's EngineCore that speaks its ZMQ and msgpack protocol, so that only the API process is measured.

    python bench/fake_engine.py --input ipc://… --output ipc://… [--step-ms 20]

It connects to the addresses that an API process binds (vLLM's client_addresses). Each step gives every running request
one token: the k-th token of its own prompt, over and over, so a request decides its answer and all servers' texts can
be compared. It ends where the real one does: max_tokens, the context, EOS, stop_token_ids (not before min_tokens).
Log-probabilities follow from token and position; a row is as wide as the widest that runs, as in a real batch.
Standard input takes lines `step_ms 20` (0: as fast as it can); its end ends the process.

An answer is known when its request comes, so a token costs two C calls: bytes made before are joined (core_bytes.py).
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import zmq

sys.path[:0] = [str(Path(__file__).parents[1])]

from bench import core_bytes

ADD, ABORT, UTILITY = b"\x00", b"\x01", b"\x03"
ENGINE = (0).to_bytes(2, "little")  # the identity of the first engine
ANSWERS: dict[str, Any] = {
    "get_supported_tasks": ["generate"],
    "reset_mm_cache": None,
    "reset_prefix_cache": True,
    "reset_encoder_cache": None,
    "is_sleeping": False,
    "list_loras": [],
}


class Core:
    """The running requests and what is done with a message."""

    def __init__(self) -> None:
        """Nothing runs."""
        self.running: dict[str, Iterator[bytes]] = {}
        self._steps = 0
        self._last: dict[int, list[str]] = {}  # step → the requests whose last token it brings
        self._widths: dict[str, int] = {}
        self._requests = msgspec.msgpack.Decoder(core_bytes.Request)

    def take(self, kind: bytes, data: bytes) -> bytes | None:
        """One message of the API process; gives what is sent at once: a call's answer, or that nothing runs."""
        if kind == ADD:
            self._add(self._requests.decode(data))
        elif kind == ABORT:
            self._drop(msgspec.msgpack.decode(data))
            return None if self.running else core_bytes.batch([], 0)  # the last count that is told
        elif kind == UTILITY:
            _, call, method, _ = msgspec.msgpack.decode(data)
            failure = None if method in ANSWERS else f"the fake engine has no {method}"
            result = None if failure else (None, ANSWERS[method])
            return core_bytes.encode((0, [], None, time.monotonic(), (call, failure, result)))
        return None

    def _add(self, request: core_bytes.Request) -> None:
        name, end = request.request_id, core_bytes.ending(request)
        self._widths[name] = request.sampling_params.logprobs or 0
        self._last.setdefault(self._steps + end.tokens, []).append(name)
        self.running[name] = run = core_bytes.answer(request, end, max(self._widths.values()))
        next(run)

    def _drop(self, names: list[str]) -> None:
        for name in names:
            self.running.pop(name, None)
            self._widths.pop(name, None)

    def step(self) -> bytes | None:
        """A token for each running request."""
        if not self.running:
            return None
        self._steps += 1
        outputs = [next(run) for run in self.running.values()]
        self._drop(self._last.pop(self._steps, []))
        return core_bytes.batch(outputs, len(self.running))


def serve(source: str, target: str, step_ms: float) -> None:
    """Until standard input ends."""
    context, core, poller = zmq.Context(), Core(), zmq.Poller()
    requests, outputs = context.socket(zmq.DEALER), context.socket(zmq.PUSH)
    for setting in (zmq.SNDHWM, zmq.RCVHWM):
        requests.set(setting, 0)
        outputs.set(setting, 0)
    requests.set(zmq.IDENTITY, ENGINE)
    requests.connect(source)
    outputs.connect(target)
    requests.send(core_bytes.ready())
    control = sys.stdin.fileno()
    poller.register(requests, zmq.POLLIN)
    poller.register(control, zmq.POLLIN)
    due = time.monotonic()
    while True:
        wait_ms = max(0, int(1000 * (due - time.monotonic()))) if core.running else None
        events = dict(poller.poll(wait_ms))
        if control in events:
            words = os.read(control, 4096).split()
            if not words:
                os._exit(0)
            step_ms, due = float(words[-1]), time.monotonic()
        if requests in events:
            due = due if core.running else time.monotonic() + step_ms / 1000
            _read(requests, core, outputs)
        elif core.running:
            time.sleep(max(0.0, due - time.monotonic()))  # under a millisecond, which poll cannot wait
            due = max(due + step_ms / 1000, time.monotonic())  # a step that came late is not caught up with
            if message := core.step():
                outputs.send(message)


def _read(requests: "zmq.Socket[bytes]", core: Core, outputs: "zmq.Socket[bytes]") -> None:
    """All messages that have come."""
    while requests.poll(0):
        kind, data, *_ = requests.recv_multipart()
        if reply := core.take(kind, data):
            outputs.send(reply)


@dataclass
class Fake:
    """A running stand-in."""

    process: "subprocess.Popen[bytes]"
    addresses: dict[str, str]
    control: int  # the end of a pipe

    def pace(self, step_ms: float) -> None:
        """Milliseconds from one token to the next from now on; 0: as fast as it can."""
        os.write(self.control, b"step_ms %g\n" % step_ms)

    def stop(self) -> None:
        """End it."""
        os.close(self.control)
        self.process.wait(10)


def start(folder: Path, step_ms: float = 0.0) -> Fake:
    """Start one whose sockets lie in `folder`; its `addresses` are for vLLM's client_addresses."""
    addresses = {f"{name}_address": f"ipc://{folder}/{name}" for name in ("input", "output")}
    words = [
        "--input",
        addresses["input_address"],
        "--output",
        addresses["output_address"],
        "--step-ms",
        f"{step_ms:g}",
    ]
    ours, control = os.pipe()
    process = subprocess.Popen([sys.executable, __file__, *words], stdin=ours)
    os.close(ours)
    return Fake(process, addresses, control)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="vLLM's EngineCore without a model.")
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--step-ms", type=float, default=0.0)
    known = parser.parse_args()
    serve(known.input, known.output, known.step_ms)


if __name__ == "__main__":
    main()
