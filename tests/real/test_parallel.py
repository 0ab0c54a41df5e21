"""Several workers of one engine, and several engines, here and on another node: they answer as one worker does.

The reference is transformers, in float32, where an answer depends on nothing that runs beside it.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Server, end, is_all_gone, start
from tests.real.test_death import ping_until
from tests.support.model_folders import shared_folder

pytestmark = pytest.mark.slow

TOKENS = 12
QUESTIONS = [f"Tell me about the number {number}." for number in range(16)]
WORDS = ("--max-model-len", "512", "--max-num-seqs", "16", "--kv-cache-memory-bytes", str(64 << 20))
CORES = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
"""VLLM wants a NUMA node for each of several workers otherwise, and puts those of two servers on the same core."""
SLOWER = ("vLLM's own output loop runs", "the fast branch is off", "handed over by vLLM's add_request")
"""What the log says where a part of the fast path does not fit."""
LONG = {"messages": [{"role": "user", "content": "Go on."}], "ignore_eos": True, "temperature": 0, "max_tokens": 440}
FIGURES = ("generation_tokens_total", "request_success_total", "inter_token_latency_seconds_count")
Truth = Sequence[tuple[str, Sequence[int]]]
"""Of each question: the chat's answer, and the ids of the tokens that go on after its text."""


def truth(folder: Path) -> Truth:
    """What transformers says."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)

    def go_on(prompt: str) -> list[int]:
        given = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**given, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, eos_token_id=None)
        return ids[0, given["input_ids"].shape[1] :].tolist()  # type: ignore[no-any-return]

    found = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        found.append((tokenizer.decode(go_on(chat), skip_special_tokens=True), go_on(question)))
    assert len({text for text, _ in found}) == len(QUESTIONS)
    return found


def chat(server: Server, question: str, **more: object) -> str:
    asked = {"messages": [{"role": "user", "content": question}], "max_tokens": TOKENS, "temperature": 0, **more}
    return str(server.whole({**asked, "ignore_eos": True})["choices"][0]["message"]["content"])


def streamed(server: Server, text: str) -> list[int]:
    """The ids of a streamed answer in the standard schema."""
    parameters = {"max_new_tokens": TOKENS, "do_sample": False, "ignore_eos_token": True}
    return [line["token"]["id"] for line in server.lines({"inputs": text, "parameters": parameters})]


def processes(server: Server, name: str) -> list[int]:
    """Those under the server's whose name begins so."""
    return [pid for pid in server.children() if Path(f"/proc/{pid}/comm").read_text().startswith(name)]


def is_fast(server: Server) -> bool:
    return not any(said in server.log.read_text() for said in SLOWER)


def figures(server: Server) -> dict[str, Counter[str]]:
    """VLLM's totals, by name and engine."""
    text = server.request("GET", "/metrics")[2].decode()
    found = {name: Counter[str]() for name in FIGURES}
    for name, counts in found.items():
        for engine, value in re.findall(rf'^vllm:{name}\{{engine="(\d+)"[^}}]*\}} (\S+)', text, re.MULTILINE):
            counts[engine] += int(float(value))
    return found


@contextlib.contextmanager
def stream(server: Server) -> Iterator[socket.socket]:
    """A long answer that has begun; the client goes at the end."""
    data = json.dumps({**LONG, "stream": True}).encode()
    head = f"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + data)
        received = b""
        while received.count(b"delta") < 3:
            more = connection.recv(1 << 16)
            assert more, received
            received += more
        yield connection


def test_workers_that_share_a_model_answer_as_one(tmp_path: Path) -> None:
    """Two of tensor parallelism in each of two stages of pipeline parallelism, by LMI's names."""
    folder = shared_folder(tmp_path / "model", in_waves=False)
    names = {"TENSOR_PARALLEL_DEGREE": "2", "OPTION_PIPELINE_PARALLEL_DEGREE": "2"}
    server = start(tmp_path / "log", "--model-id", str(folder), *WORDS, environment={**CORES, **names})
    try:
        assert len(processes(server, "VLLM::Worker")) == 4
        for question, (text, ids) in zip(QUESTIONS[:4], truth(folder), strict=False):
            assert chat(server, question) == text
            assert streamed(server, question) == ids
        assert is_fast(server)
    finally:
        end(server)


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory.mktemp("waves"), in_waves=True)


@pytest.fixture(scope="module")
def engines(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("engines") / "log"
    names = {"OPTION_DATA_PARALLEL_SIZE": "2"}
    running = start(log, "--model-id", str(waves), *WORDS, environment={**CORES, **names})
    yield running
    end(running)


def test_engines_answer_as_one_each_its_part(engines: Server, waves: Path) -> None:
    expected, before = truth(waves), figures(engines)
    with ThreadPoolExecutor(16) as pool:
        chats = [pool.submit(chat, engines, question) for question in QUESTIONS[:8]]
        streams = [pool.submit(streamed, engines, question) for question in QUESTIONS[8:]]
    assert [each.result() for each in chats] == [text for text, _ in expected[:8]]
    assert [each.result() for each in streams] == [ids for _, ids in expected[8:]]
    after = figures(engines)
    grown = {name: after[name] - before[name] for name in FIGURES}
    assert {name: counts.total() for name, counts in grown.items()} == {
        "generation_tokens_total": 16 * TOKENS,
        "request_success_total": 16,
        "inter_token_latency_seconds_count": 16 * (TOKENS - 1),
    }
    assert min(grown["request_success_total"][engine] for engine in "01") >= 4
    assert is_fast(engines)
    assert engines.request("GET", "/ping")[0] == 200


def test_they_wake_up_when_they_have_paused(engines: Server, waves: Path) -> None:
    expected = truth(waves)
    for question, (text, _) in zip(QUESTIONS[:5], expected, strict=False):
        assert engines.wait_until_idle(20)
        time.sleep(0.7)
        assert chat(engines, question) == text
    assert engines.request("GET", "/ping")[0] == 200


def test_there_is_room_for_as_many_as_all_run(engines: Server) -> None:
    """`max_num_seqs` is of each engine; here it is told to batch transform, which fills them."""
    assert json.loads(engines.request("GET", "/execution-parameters")[2])["MaxConcurrentTransforms"] == 2 * 16


def test_clients_that_go_take_their_requests_off_their_engines(engines: Server) -> None:
    assert engines.wait_until_idle(20)
    before = figures(engines)
    with contextlib.ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(stream(engines))
        assert engines.in_engine() == 4
    assert engines.wait_until_idle(20)
    grown = figures(engines)["generation_tokens_total"] - before["generation_tokens_total"]
    assert set(grown) == {"0", "1"}
    assert all(0 < count < 2 * 440 for count in grown.values())
    assert chat(engines, QUESTIONS[0])
    assert engines.request("GET", "/ping")[0] == 200


def test_the_death_of_one_is_the_death_of_all(engines: Server) -> None:
    children, cores = engines.children(), processes(engines, "VLLM::EngineCor")
    assert len(cores) == 2
    answers: list[bytes] = []

    def ask() -> None:
        answers.append(engines.post({**LONG, "stream": True}, accept="text/event-stream")[2])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    limit = time.monotonic() + 20
    while engines.in_engine() < 4:
        assert time.monotonic() < limit
        time.sleep(0.02)
    os.kill(cores[1], signal.SIGKILL)
    with contextlib.suppress(ConnectionError):  # the server ends soon after
        assert ping_until(engines, 503, seconds=10)["status"] == "engine_down"
    for thread in threads:
        thread.join(20)
    for data in answers:
        last = data.split(b"\n\n")[-2]
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_down"
    assert len(answers) == 4
    assert engines.process.wait(30) == 1
    assert is_all_gone(children, seconds=10)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory.mktemp("dense"), in_waves=False)


@pytest.fixture(scope="module")
def nodes(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("nodes")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    shared = ("--data-parallel-size", "2", "--data-parallel-size-local", "1", "--data-parallel-address", "127.0.0.1")
    both = (*shared, "--data-parallel-rpc-port", str(port), *WORDS)
    other = (*both, "--data-parallel-start-rank", "1", "--headless", "--dtype", "float32", "--enforce-eager")
    command = [sys.executable, "-m", "tests.support.headless", "--model", str(dense), *other]
    environment = {**os.environ, **CORES, "VLLM_NO_USAGE_STATS": "1", "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    with (place / "other").open("wb") as output:
        node = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        names = ("--model-id", str(dense), "--stall-seconds", "3", *both)
        running = start(place / "log", *names, environment=CORES)
        yield running
        end(running)
    finally:
        os.killpg(node.pid, signal.SIGKILL)  # it takes minutes to end by itself
        node.wait(30)


def test_engines_of_two_nodes_answer_as_one_each_its_part(nodes: Server, dense: Path) -> None:
    expected, before = truth(dense), figures(nodes)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda question: chat(nodes, question), QUESTIONS))
    assert answers == [text for text, _ in expected]
    grown = figures(nodes)["request_success_total"] - before["request_success_total"]
    assert grown.total() == 16
    assert min(grown["0"], grown["1"]) >= 4
    assert is_fast(nodes)


@contextlib.contextmanager
def asked(server: Server, clients: int) -> Iterator[None]:
    """Clients that ask one after the other, until the end of the block, and are then answered."""
    ending = threading.Event()

    def keep_asking() -> None:
        while not ending.is_set():
            server.post({**LONG, "max_tokens": 20})

    asking = [threading.Thread(target=keep_asking) for _ in range(clients)]
    for thread in asking:
        thread.start()
    try:
        yield
    finally:
        ending.set()
    for thread in asking:
        thread.join(60)


def test_what_clients_have_left_is_not_taken_for_standing_still(nodes: Server) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(stream(nodes))
    assert nodes.wait_until_idle(20)
    until = time.monotonic() + 4.5
    with asked(nodes, 1):
        while time.monotonic() < until:
            assert nodes.request("GET", "/ping")[0] == 200
            time.sleep(0.05)


def test_one_that_stands_still_is_noticed(nodes: Server) -> None:
    """Whether the other one has work meanwhile is vLLM's to choose; tests/engine/vllm/test_heartbeat.py has both."""
    assert nodes.wait_until_idle(20)
    [core] = processes(nodes, "VLLM::EngineCor")
    with asked(nodes, 4):  # the first ones may all go to it
        os.kill(core, signal.SIGSTOP)
        try:
            assert ping_until(nodes, 503, seconds=30)["status"] == "stalled"
        finally:
            os.kill(core, signal.SIGCONT)
    ping_until(nodes, 200, seconds=20)
