"""What a streamed token costs the handler's process: behind our own HTTP server, and inside DJL's Java engine.

    .venv/bin/python bench/djl.py [streams] [tokens] [rounds]

One-layer model with random weights (vocabulary and tokenizer of the default model), so that the engine is quick and
the handler shows. Each round asks `streams` chats of `tokens` tokens at once; CPU time of all
threads of the process ÷ tokens. Needs Java 17 and Maven, as `make djl-test` does.
"""

import http.client
import json
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "shim")]

from bench.one_layer import one_layer
from tests.java.bridge import ROOT, bridge
from tests.real.conftest import start


def measured(processes: list[psutil.Process], ask: Callable[[], object], streams: int, tokens: int) -> list[float]:
    """CPU microseconds per token of each process, all its threads, for `streams` at once."""
    before = [sum(process.cpu_times()[:2]) for process in processes]
    threads = [threading.Thread(target=ask) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = [sum(process.cpu_times()[:2]) for process in processes]
    return [(b - a) * 1e6 / (streams * tokens) for a, b in zip(before, after, strict=True)]


def check(found: int, wanted: int, answer: object) -> None:
    """An answer that is cut would cost less. Raises SystemExit."""
    if found != wanted:
        raise SystemExit(f"{found} tokens in place of {wanted}: {str(answer)[-500:]}")


def told(name: str, rounds: list[list[float]]) -> None:
    """One line of the table."""
    shown = " · ".join(
        f"{statistics.median(each):.0f} ({min(each):.0f}–{max(each):.0f})" for each in zip(*rounds, strict=True)
    )
    print(f"{name}: µs per token {shown}", flush=True)


def main() -> None:
    """Measure both surfaces, whole dialects chat and standard."""
    streams, tokens, rounds = ([int(word) for word in sys.argv[1:]] + [16, 200, 5][len(sys.argv) - 1 :])[:3]
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens, "ignore_eos": True, "stream": True}
    standard = {"inputs": "hi", "parameters": {"max_new_tokens": tokens, "ignore_eos_token": True}, "stream": True}
    with tempfile.TemporaryDirectory() as place:
        model = one_layer(Path(place))
        server = start(Path(place) / "log", "--model-id", str(model), "--load-format", "dummy", "--access-log", "off")

        def post(body: dict[str, object]) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
            connection.request("POST", "/invocations", json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse().read()
            check(answer.count(b"\n"), tokens, answer)
            connection.close()

        own = [psutil.Process(server.process.pid)]
        for name, body in (("chat", chat), ("standard", standard)):
            measured(own, lambda body=body: post(body), 2, tokens)
            told(
                f"own HTTP, {name}",
                [measured(own, lambda body=body: post(body), streams, tokens) for _ in range(rounds)],
            )
        server.process.terminate()
        server.process.wait(30)
        options = (f"model_id={model}", "load_format=dummy", "dtype=float32", "access_log=off", "predict_timeout=150")
        with bridge(ROOT, Path(place) / "bridge", *options, threads=2 * streams) as driven:
            java = psutil.Process(driven.process.pid)
            handler = next(
                each for each in java.children(recursive=True) if "djl_python_engine.py" in " ".join(each.cmdline())
            )

            def ask(body: dict[str, object]) -> None:
                answer = driven.ask(body)
                check(len(answer.chunks), tokens, answer)

            for name, body in (("chat", chat), ("standard", standard)):
                measured([handler, java], lambda body=body: ask(body), 2, tokens)
                found = [measured([handler, java], lambda body=body: ask(body), streams, tokens) for _ in range(rounds)]
                told(f"DJL, {name} (Python · Java with the bridge)", found)


if __name__ == "__main__":
    main()
