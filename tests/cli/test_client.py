"""`lmi-chat chat` and `lmi-chat invoke` against a real server with a scripted engine, by URL and by endpoint name."""

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.cli.main import main
from lmi_chat.errors import EngineDown
from tests.http.test_app import CHAT
from tests.pipeline.test_pipeline import breaking
from tests.support.scripted import Scripted, Service, said, serving

STREAM = {**CHAT, "stream": True}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.fixture(params=["url", "endpoint"])
def target(request: pytest.FixtureRequest, service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same server, by its address and as boto3 finds an endpoint of that name."""
    url = f"http://127.0.0.1:{service.port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield url if request.param == "url" else "my-endpoint"
    service.engine.script = said("Hello!")


def piped(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def invoked(body: Any, path: Path, capfdbinary: Any, *words: str) -> tuple[int, bytes, bytes]:
    file = path / "body.json"
    file.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
    code = main(["invoke", *words, str(file)])
    told = capfdbinary.readouterr()
    return code, told.out, told.err


def test_invoke_prints_the_answer(target: str, tmp_path: Path, capfdbinary: Any) -> None:
    code, out, _ = invoked(CHAT, tmp_path, capfdbinary, target)
    assert (code, json.loads(out)["choices"][0]["message"]["content"]) == (0, "Hello!")
    code, out, _ = invoked(STREAM, tmp_path, capfdbinary, target)
    assert (code, len(out.splitlines())) == (0, len("Hello!") + 1)  # and its end
    code, out, _ = invoked(STREAM, tmp_path, capfdbinary, "--accept", "text/event-stream", target)
    assert (code, out.endswith(b"data: [DONE]\n\n")) == (0, True)
    code, out, _ = invoked(b"hi", tmp_path, capfdbinary, "--content-type", "text/plain", target)
    assert (code, json.loads(out)) == (0, {"generated_text": "Hello!"})


def test_invoke_reads_stdin(target: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> None:
    for words in ([target], [target, "-"]):
        piped(monkeypatch, json.dumps(CHAT))
        assert main(["invoke", *words]) == 0
        assert b"Hello!" in capfdbinary.readouterr().out


def test_the_exit_code_tells_the_status(service: Service, target: str, tmp_path: Path, capfdbinary: Any) -> None:
    code, out, _ = invoked({**CHAT, "top_p": 2}, tmp_path, capfdbinary, target)
    assert (code, json.loads(out)["error"]["param"]) == (4, "top_p")
    service.engine.script = breaking(EngineDown("the engine is gone"))
    code, out, _ = invoked(CHAT, tmp_path, capfdbinary, target)
    assert (code, json.loads(out)["error"]["code"]) == (5, "engine_down")
    code, out, err = invoked(STREAM, tmp_path, capfdbinary, target)
    assert code == 1
    assert b'"a"' in out
    assert b"the engine is gone" in out + err
    assert main(["invoke", target, str(tmp_path / "nothing")]) == 2
    assert b"nothing: No such file or directory" in capfdbinary.readouterr().err


def test_who_reads_may_have_seen_enough(service: Service) -> None:
    command = (
        f"printf '%s' '{json.dumps(STREAM)}' | {sys.executable} -m lmi_chat invoke 127.0.0.1:{service.port} | true"
    )
    service.engine.script = said("Hello!", gap_s=0.1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    service.engine.script = said("Hello!")
    assert done.stderr == b""


def test_a_target_that_is_none(tmp_path: Path, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = invoked(CHAT, tmp_path, capfdbinary, "127.0.0.1:1")
    assert (code, err) == (1, b"lmi-chat: http://127.0.0.1:1 cannot be reached: Connection refused\n")
    for target in ("ftp://host", "http://", "a_b", "http://host:x", "localhost:99999"):
        code, _, err = invoked(CHAT, tmp_path, capfdbinary, target)
        assert (code, b"is neither an http(s) URL nor the name of a SageMaker endpoint" in err) == (1, True), target
    monkeypatch.setitem(sys.modules, "boto3", None)
    code, _, err = invoked(CHAT, tmp_path, capfdbinary, "my-endpoint")
    assert (code, b"needs boto3: pip install boto3" in err) == (1, True)
    with pytest.raises(SystemExit) as stopped:
        main(["invoke", "localhost:1", "--no-such-option", "x"])
    assert stopped.value.code == 2


def chatted(monkeypatch: pytest.MonkeyPatch, capfd: Any, lines: str, *words: str) -> tuple[int, str, str]:
    piped(monkeypatch, lines)
    code = main(["chat", *words])
    told = capfd.readouterr()
    return code, told.out, told.err


def test_a_conversation_from_a_pipe(
    service: Service, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    kept = tmp_path / "kept.json"
    lines = f"one\n\n  two  \n/save {kept}\n/help\n/reset\n/system Be brief.\nthree\n/quit\nfour\n"
    code, out, err = chatted(monkeypatch, capfd, lines, target, "--temperature", "0", "--max-tokens", "9")
    assert (code, out) == (0, "Hello!\n" * 3)
    assert "/reset" in err
    assert "4 messages are in" in err
    saved = json.loads(kept.read_text())
    assert saved == {
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": "Hello!"},
        ],
        "temperature": 0,
        "max_tokens": 9,
    }
    prompts = [job.prompt_text for job in service.engine.jobs[-3:]]
    assert "assistant\nHello!" in prompts[1]
    assert prompts[2].startswith("system\nBe brief.")
    assert "two" not in prompts[2]
    assert main(["invoke", target, str(kept)]) == 0, "what was saved is a request"


def test_errors_are_readable_and_end_a_piped_conversation(
    service: Service, target: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    code, out, err = chatted(monkeypatch, capfd, "one\ntwo\n", target, "--temperature", "3")
    assert (code, out) == (1, "")
    assert err == "lmi-chat: 400: temperature must be at least 0 and at most 2, got 3.0\n"
    service.engine.script = breaking(EngineDown("the engine is gone"))
    code, out, err = chatted(monkeypatch, capfd, "one\ntwo\n", target)
    assert (code, out) == (1, "ab\n")
    assert "the engine is gone" in err
    code, _, err = chatted(monkeypatch, capfd, "/nonsense\n", target)
    assert (code, err) == (1, "lmi-chat: '/nonsense' is no command; /help lists them\n")
    code, _, err = chatted(monkeypatch, capfd, "/save /no/such/place\n", target)
    assert (code, "No such file" in err) == (1, True)


def test_openais_path_is_found_by_its_base(service: Service, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    for end in ("/v1", "/v1/", "/v1/chat/completions", "/invocations", "/", ""):
        code, out, err = chatted(monkeypatch, capfd, "hi\n", f"127.0.0.1:{service.port}{end}", "--model", "tiny")
        assert (code, out, err) == (0, "Hello!\n", ""), end


ANSWERS = {
    "/document": ("application/json", b'{\n "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]\n}'),
    "/events": (
        "text/event-stream",
        b': comment\n\ndata: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}',
    ),
    "/cut": ("application/jsonlines", b'{"choices":[{"delta":{"content":"Hi"},"finish_reason":null}]}\n'),
    "/short": ("application/jsonlines", b'{"choices":[{"delta":{"content":"Hi"},"finish_reason":null}]}\n'),
    "/text": ("text/html", b"<html>no</html>"),
    "/list": ("application/json", b"[1]"),
    "/empty": ("application/json", b""),
}


class Elsewhere(BaseHTTPRequestHandler):
    """Other servers' ways to answer."""

    heard: list[Any] = []  # noqa: RUF012 what came, for the test to see

    def do_POST(self) -> None:
        self.heard.append((self.headers["authorization"], self.rfile.read(int(self.headers["content-length"]))))
        content_type, body = ANSWERS[self.path]
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body) + 9 * (self.path == "/short")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002 its name in the base class
        pass


def test_other_servers_shapes(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        url = f"http://127.0.0.1:{server.server_port}"
        expected = {
            "/document": (0, "Hi\n", ""),
            "/events": (0, "Hi\n", ""),
            "/cut": (1, "Hi\n", "lmi-chat: the answer broke off\n"),
            "/short": (1, "Hi\n", "lmi-chat: the answer broke off, 9 bytes before its end\n"),
            "/text": (1, "", "lmi-chat: <html>no</html>\n"),
            "/list": (1, "", "lmi-chat: [1]\n"),
            "/empty": (1, "", "lmi-chat: the answer broke off\n"),
        }
        for path, told in expected.items():
            assert chatted(monkeypatch, capfd, "hi\n", url + path, "--header", "Authorization: Bearer x") == told, path
        server.shutdown()
        serving.join()
    assert {key for key, _ in Elsewhere.heard} == {"Bearer x"}


AT_TERMINAL = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
from lmi_chat.cli.main import main
sys.exit(main())
"""


def until(terminal: int, pattern: bytes) -> None:
    """Read on until it shows that."""
    seen = b""
    while not re.search(pattern, seen):
        is_ready, _, _ = select.select([terminal], [], [], 20)
        assert is_ready, seen
        seen += os.read(terminal, 4096)


def test_ctrl_c_ends_the_answer_and_not_the_program() -> None:
    """At a real terminal: the server stops generating, the next turn knows what was heard."""
    with serving(Scripted(said("so long " * 50, gap_s=0.02))) as service:
        ours, theirs = pty.openpty()
        words = [sys.executable, "-c", AT_TERMINAL, "chat", f"127.0.0.1:{service.port}"]
        process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        until(ours, rb"> ")
        os.write(ours, b"hello\n")
        until(ours, rb"so l")
        os.write(ours, b"\x03")
        until(ours, rb"\(interrupted\)[\s\S]*> ")
        end = time.monotonic() + 5
        while service.engine.running:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert service.engine.left_early == 1
        service.engine.script = said("Bye!")
        os.write(ours, b"\x03")
        until(ours, rb"\n> ")  # a terminal forgets what was typed before a signal
        os.write(ours, b"again\n")
        until(ours, rb"Bye!\s+> ")
        assert "user\nhello" in service.engine.jobs[-1].prompt_text
        assert "assistant\nso l" in service.engine.jobs[-1].prompt_text
        os.write(ours, b"\x04")
        assert process.wait(10) == 0
        os.close(ours)
