"""DJL's own Python engine, driven from here: a Java process that takes requests as lines of JSON."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).parent / "drive"
ANSWER_S = 150
START_S = 280


@dataclass
class Answer:
    """What one request was given."""

    code: int = 0
    message: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    failure: str = ""

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def header(self, name: str) -> str:
        return next((text for key, text in self.properties.items() if key.lower() == name.lower()), "")


class Bridge:
    """A model directory behind DJL's engine."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self.process, self.log = process, log
        self._numbers = itertools.count()
        self._events: dict[str, SimpleQueue[dict[str, Any]]] = {}
        self.is_ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                self.is_ready.set()
            else:
                self._events[event["id"]].put(event)

    def send(self, body: object, headers: Mapping[str, str] | None = None, **more: Any) -> str:
        """Send a request; gives its number. `leave_after`: how many chunks are read before the client goes."""
        number = str(next(self._numbers))
        self._events[number] = SimpleQueue()
        text = body if isinstance(body, str) else json.dumps(body)
        properties = {"Content-Type": "application/json", **(headers or {})}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"id": number, "properties": properties, "body": text, **more}) + "\n")
        self.process.stdin.flush()
        return number

    def events(self, number: str) -> Iterator[dict[str, Any]]:
        """What comes for a request, until its end."""
        while True:
            event = self._events[number].get(timeout=ANSWER_S)
            yield event
            if event["event"] in {"end", "failed"}:
                return

    def answer(self, number: str) -> Answer:
        """Wait for a request's end."""
        answer = Answer()
        for event in self.events(number):
            match event["event"]:
                case "head":
                    answer.code, answer.message = event["code"], event["message"]
                    answer.properties = event["properties"]
                case "chunk":
                    answer.chunks.append(base64.b64decode(event["data"]))
                case "failed":
                    answer.failure = event["error"]
        answer.chunks = [chunk for chunk in answer.chunks if chunk]
        return answer

    def ask(self, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request and wait for its end."""
        return self.answer(self.send(body, headers))


def build() -> None:
    """Compile the Java side; Maven fetches DJL's engine. Says what to install where something is missing."""
    for program, package in (("java", "openjdk-17-jdk-headless"), ("mvn", "maven")):
        assert shutil.which(program), f"DJL's Python engine needs {program}; on Debian: apt-get install {package}"
    if not (PROJECT / "target" / "lib").is_dir():
        subprocess.run(["mvn", "-q", "-B", "package"], cwd=PROJECT, check=True, timeout=300)


@contextlib.contextmanager
def bridge(folder: Path, place: Path, *options: str, threads: int = 32, **environment: str) -> Iterator[Bridge]:
    """Load `folder` with DJL's engine; `place` gets its caches, sockets and log. It unpacks itself anew each time."""
    build()
    (place / "tmp").mkdir(parents=True)
    classes = os.pathsep.join([str(PROJECT / "target" / "classes"), str(PROJECT / "target" / "lib" / "*")])
    command = [
        "java",
        f"-Djava.io.tmpdir={place / 'tmp'}",
        "-cp",
        classes,
        "Drive",
        str(folder),
        str(threads),
        *options,
    ]
    variables = {
        **os.environ,
        "DJL_CACHE_DIR": str(place / "cache"),
        "PYTHON_EXECUTABLE": sys.executable,
        "PYTHONPATH": str(ROOT),
        "OPT_OUT_TRACKING": "true",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        **environment,
    }
    pipe = subprocess.PIPE
    with (
        (place / "log").open("w") as log,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=variables) as process,
    ):
        driven = Bridge(process, place / "log")
        try:
            limit = START_S * 10
            while not driven.is_ready.wait(0.1):
                limit -= 1
                assert limit, (place / "log").read_text()[-4000:]
                assert process.poll() is None, (place / "log").read_text()[-4000:]
            yield driven
            started = psutil.Process(process.pid).children(recursive=True)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
            for left in psutil.wait_procs(started, timeout=10)[1]:  # a custom handler's engine outlives it
                left.kill()
        finally:
            process.kill()
