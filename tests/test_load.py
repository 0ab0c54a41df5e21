"""bench/load.c, the benchmarks' load generator: what it counts is what a server wrote."""

import json
import socket
import subprocess
import threading
from typing import Any

import pytest

from bench.measures import Load
from bench.traffic import read_chat, read_events, read_lines, request

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = (b"data: 1\n\nda", b"ta: 2\n\ndata: 3\n", b"\n", b"data: [DONE]\n\n")
ROUNDS = 3


def chunked(parts: tuple[bytes, ...]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    return Load(tmp_path_factory.mktemp("load"))


def ask(load: Load, kind: str, answer: bytes, *, cut: int, connections: int = 2) -> tuple[dict[str, Any], bytes]:
    """What it tells of a server that gives `answer` in pieces of `cut` bytes, and the last body that it kept."""
    asked = request("/x", {"a": "é"})
    file = load.folder / "asked"
    file.write_bytes(asked)

    def serve(one: socket.socket) -> None:
        with one:
            for _ in range(ROUNDS):
                assert one.recv(len(asked), socket.MSG_WAITALL) == asked
                for at in range(0, len(answer), cut):
                    one.sendall(answer[at : at + cut])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = [str(load.program), str(listener.getsockname()[1]), str(connections), str(ROUNDS), kind]
        with subprocess.Popen([*words, str(load.folder), str(file)], stdout=subprocess.PIPE) as process:
            threads = [threading.Thread(target=serve, args=(listener.accept()[0],)) for _ in range(connections)]
            for thread in threads:
                thread.start()
            out = process.communicate(timeout=30)[0]
            for thread in threads:
                thread.join()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out)
    assert (found["answers"], found["failed"]) == (connections * ROUNDS, 0)
    return found, (load.folder / str(connections - 1)).read_bytes()


@pytest.mark.parametrize("cut", [1, 7, 10_000])
def test_events_are_counted_wherever_reads_and_chunks_end(load: Load, cut: int) -> None:
    found, body = ask(load, "events", HEAD + chunked(EVENTS), cut=cut)
    assert body == b"".join(EVENTS)
    assert (found["events"], found["chunks"]) == (4 * 2 * ROUNDS, 4 * 2 * ROUNDS)
    if cut > len(HEAD + chunked(EVENTS)):
        assert (found["most_in_read"], found["gap_ms"]["max"], found["pause_ms"]["max"]) == (4, 0, 0)


def test_lines_and_whole_answers(load: Load) -> None:
    found, body = ask(load, "lines", HEAD + chunked((b"{}\n{", b"}\n")), cut=5)
    assert (found["events"], found["chunks"], body) == (2 * 2 * ROUNDS, 2 * 2 * ROUNDS, b"{}\n{}\n")
    found, body = ask(load, "whole", whole(b'{"a": 1}'), cut=9)
    assert (found["bytes"], found["chunks"], body) == (8 * 2 * ROUNDS, 0, b'{"a": 1}')


def test_texts_are_read_out_of_answers() -> None:
    chat: tuple[dict[str, Any], ...] = (
        {"choices": [{"delta": {"role": "assistant", "content": "é"}}]},
        {"choices": [{"text": "x\n"}]},
        {"choices": []},
    )
    stream = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in chat)
    assert read_events(stream + b"data: [DONE]\n\n") == "éx\n"
    with pytest.raises(ValueError, match="ends with"):
        read_events(stream)
    assert read_chat(b'{"choices":[{"message":{"content":null}}]}') == ""
    lines = b'{"token":{"text":"a"},"generated_text":null}\n{"token":{"text":"b"},"generated_text":"ab"}\n'
    assert read_lines(lines) == "ab"
    with pytest.raises(ValueError, match="not the whole"):
        read_lines(lines.replace(b'"ab"', b'"a"'))
