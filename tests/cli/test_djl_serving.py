"""`djl-serving DIRECTORY`: foreign handlers over real HTTP, as processes of their own."""

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmi_chat.cli import directory as directories
from lmi_chat.cli.directory import find_formatters
from lmi_chat.config.settings import Settings
from lmi_chat.dialects.formatters import Formatters
from tests.support.children import wait_for_text

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
PLAIN = """
import time
from djl_python import Input, Output

loaded = None

def handle(inputs: Input) -> Output:
    global loaded
    if inputs.is_empty():
        loaded = inputs.get_property("greeting")
        return None
    asked = inputs.get_as_json()
    match asked["do"]:
        case "echo":
            return Output().add_as_json({"got": asked, "greeting": loaded, "id": inputs.get_property("X-Id"),
                                         "query": inputs.contains_key("q") and inputs.get_as_string("q")})
        case "stream":
            return Output().add_property("content-type", "application/jsonlines").add_stream_content(iter("abc"))
        case "own format":
            return Output().add_stream_content(iter([1, 2]), output_formatter=lambda item: f"<{item}>")
        case "error":
            return Output().error("not that", code=400)
        case "raise":
            raise RuntimeError("it broke")
        case "break":
            def texts():
                yield "a"
                raise RuntimeError("it broke in the middle")
            return Output().add_stream_content(texts())
        case "nothing":
            return None
        case "alone":
            begun = time.monotonic()
            time.sleep(0.1)
            return Output().add_as_json([begun, time.monotonic()])
"""
ASYNC = """
import asyncio
from djl_python import Input, Output
from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output

waiting = 0

async def handle(inputs: Input):
    if inputs.is_empty():
        return None
    global waiting
    asked = inputs.get_as_json()
    match asked["do"]:
        case "whole":
            return create_non_stream_output({"ok": True}, properties={"x-mine": "yes"})
        case "refuse":
            return create_non_stream_output("", error="no such thing", code=404)
        case "raise":
            raise RuntimeError("it broke")
        case "together":
            waiting += 1
            while waiting < asked["of"]:
                await asyncio.sleep(0.01)
            return create_non_stream_output({"waited": asked["of"]})
        case "wait":
            await asyncio.sleep(60)
    return stream(asked["do"])

async def stream(do):
    for letter in "ab":
        yield create_stream_chunk_output({"letter": letter}, False)
    if do == "break":
        raise RuntimeError("it broke in the middle")
    if do != "unended":
        yield create_stream_chunk_output({"letter": "c"}, True)
"""


@dataclass
class Runner:
    process: "subprocess.Popen[bytes]"
    port: int
    said: Path

    def log(self) -> str:
        return self.said.read_text()

    def post(self, body: object, path: str = "/invocations", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            given = {"content-type": "application/json"} | {
                name.replace("_", "-"): text for name, text in headers.items()
            }
            connection.request("POST", path, json.dumps(body), given)
            answer = connection.getresponse()
            return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
        finally:
            connection.close()


def start(folder: Path, *words: str, by: Sequence[str] = (), **variables: str) -> "subprocess.Popen[bytes]":
    """What it says goes into the file `log` beside the folder. `by` is the command, where it is not djl-serving."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'shim'}"} | variables
    place = ("--host", "127.0.0.1", "--port", "0")
    command = [sys.executable, "-m", *(by or ("lmi_chat.cli.djl_serving", str(folder))), *place, *words]
    with (folder.parent / "log").open("w") as log:
        return subprocess.Popen(command, stderr=log, env=environment)


@contextlib.contextmanager
def running(folder: Path, *words: str, by: Sequence[str] = (), **variables: str) -> Iterator[Runner]:
    with start(folder, *words, by=by, **variables) as process:
        log = folder.parent / "log"
        try:
            said = wait_for_text(log, "ready after", process)
            port = re.search(r"http://127.0.0.1:(\d+)", said)
            assert port
            yield Runner(process, int(port[1]), log)
            process.terminate()
            assert process.wait(20) == 0, log.read_text()
        finally:
            process.kill()  # whatever has failed: the end of `with` waits for it


def directory(place: Path, code: str, properties: str = "engine=Python\n") -> Path:
    place.mkdir()
    (place / "model.py").write_text(code)
    (place / "serving.properties").write_text(properties)
    return place


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    properties = "engine=Python\noption.greeting=hello\noption.predict_timeout=5\nbatch_size=1\n"
    with running(directory(tmp_path_factory.mktemp("plain") / "m", PLAIN, properties)) as runner:
        yield runner


@pytest.fixture(scope="module")
def asynchronous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = directory(tmp_path_factory.mktemp("async") / "m", ASYNC, "option.async_mode=true\n")
    with running(folder, "--predict-timeout", "3") as runner:
        yield runner


def test_a_plain_handler_gets_headers_query_and_configuration(plain: Runner) -> None:
    status, headers, data = plain.post({"do": "echo"}, "/predictions/m?q=why", X_ID="7")
    assert status == 200
    assert headers["content-length"] == str(len(data))
    assert json.loads(data) == {"got": {"do": "echo"}, "greeting": "hello", "id": "7", "query": "why"}


def test_a_plain_handlers_streams(plain: Runner) -> None:
    status, headers, data = plain.post({"do": "stream"})
    assert (status, headers["content-type"]) == (200, "application/jsonlines")
    assert [json.loads(line) for line in data.splitlines()] == [{"outputs": letter} for letter in "abc"]
    assert plain.post({"do": "own format"})[2] == b"<1><2>"


def test_a_plain_handlers_failures(plain: Runner) -> None:
    status, _, data = plain.post({"do": "error"})
    assert (status, json.loads(data)["error"]) == (400, "not that")
    status, _, data = plain.post({"do": "raise"})
    assert status == 424
    assert json.loads(data)["error"].startswith("the handler failed; the server's log says why under ")
    assert "RuntimeError: it broke" in plain.log()
    assert "RuntimeError" not in data.decode()
    status, _, data = plain.post({"do": "break"})
    assert status == 200
    assert json.loads(data.splitlines()[0]) == {"outputs": "a"}
    assert "the handler failed; the server's log says why" in json.loads(data.splitlines()[-1])["error"]
    assert "it broke in the middle" in plain.log()
    assert plain.post({"do": "nothing"})[0] == 204


def test_a_plain_handler_answers_one_at_a_time(plain: Runner) -> None:
    times: list[tuple[float, float]] = []
    threads = [threading.Thread(target=lambda: times.append(json.loads(plain.post({"do": "alone"})[2]))) for _ in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))


def test_an_asynchronous_handler(asynchronous: Runner) -> None:
    status, headers, data = asynchronous.post({"do": "whole"})
    assert (status, headers["content-type"], headers["x-mine"]) == (200, "application/json", "yes")
    assert json.loads(data) == {"ok": True}
    status, headers, data = asynchronous.post({"do": "stream"}, "/models/m/invoke")
    assert (status, headers["content-type"]) == (200, "application/jsonlines")
    assert [json.loads(line)["letter"] for line in data.splitlines()] == list("abc")


def test_an_asynchronous_handler_answers_many_at_once(asynchronous: Runner) -> None:
    answers: list[int] = []
    ask = {"do": "together", "of": 8}
    threads = [threading.Thread(target=lambda: answers.append(asynchronous.post(ask)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8


def test_an_asynchronous_handlers_failures_never_hang(asynchronous: Runner) -> None:
    status, _, data = asynchronous.post({"do": "refuse"})
    assert (status, json.loads(data)) == (404, {"error": "no such thing", "code": 404})
    assert asynchronous.post({"do": "raise"})[0] == 424
    for broken, why in (("break", "the handler failed; the server's log says why"), ("unended", "without a last part")):
        status, _, data = asynchronous.post({"do": broken})
        lines = [json.loads(line) for line in data.splitlines()]
        assert (status, [line.get("letter") for line in lines[:2]]) == (200, ["a", "b"])
        assert why in lines[-1]["error"]
    status, _, data = asynchronous.post({"do": "wait"})
    assert (status, json.loads(data)["type"]) == (504, "timeout_error")


def test_ping_and_unknown_paths(plain: Runner) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plain.port, timeout=10)
    connection.request("GET", "/ping")
    assert (reply := connection.getresponse()).status == 200
    assert json.loads(reply.read())["status"] == "ready"
    connection.request("GET", "/nowhere")
    assert (reply := connection.getresponse()).status == 404
    assert json.loads(reply.read())["code"] == 404
    connection.close()


@pytest.mark.parametrize(
    ("code", "properties", "why"),
    [
        (
            "def handle(inputs):\n    raise OSError('no weights')\n",
            "",
            "the handler failed to load: OSError: no weights",
        ),
        ("import no_such_module\n", "", "entry point model.py does not load"),
        (
            "",
            "engine=PyTorch\n",
            "serving.properties:1: engine must be one of DeepSpeed, FasterTransformer, MPI, Python, got 'PyTorch'",
        ),
        (
            "def handle(inputs):\n    pass\n",
            "#\noption.rolling_batch=auto\n",
            "serving.properties:2: rolling_batch must be disable for a handler of one's own, got 'auto'; the handler",
        ),
        (
            "def handle(inputs):\n    pass\n",
            "option.tensor_parallel_degree=two\n",
            "serving.properties:1: tensor_parallel_degree must be a whole number or max, got 'two'",
        ),
        (
            "def handle(inputs):\n    pass\n",
            "job_queue_size=-1\n",
            "serving.properties:1: job_queue_size must be at least 0",
        ),
        (
            "from djl_python import Output\n\ndef handle(inputs):\n    return Output().error('no licence', code=403)\n",
            "",
            "the handler refused to load with 403 no licence",
        ),
        ("", "option.entryPoint=other.py\n", "there is no entry point"),
        ("", "\ufeffengine=Python\noption.entryPoint=other.py\n", "there is no entry point"),
        ("", "a=1\nb=\\u12\n", "serving.properties:2: it cannot be read"),
        ("", "#" * 2**20 + "\n", "serving.properties is larger than 1048576 bytes"),
    ],
)
def test_a_directory_that_cannot_be_served_is_told_in_a_sentence(
    tmp_path: Path, code: str, properties: str, why: str
) -> None:
    with start(directory(tmp_path / "m", code, properties)) as process:
        assert process.wait(20) in {1, 2}
    assert why in (tmp_path / "log").read_text().splitlines()[-1]


def test_formatters_are_found_beside_any_entry_point(tmp_path: Path) -> None:
    code = "from djl_python.output_formatter import output_formatter\n\n"
    code += "@output_formatter\ndef own(answer):\n    return 7\n"
    formatters = find_formatters(directory(tmp_path / "m", code, "option.entryPoint=lmi_chat.djl\n"))
    assert (formatters.read, formatters.write and formatters.write({})) == (None, 7)
    assert find_formatters(tmp_path).write is None
    assert formatters.load is not None
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "model.py").write_text(code.replace("7", "8"))
    own = formatters.load(tmp_path / "adapter")
    assert own.write is not None
    assert (own.write({}), formatters.write and formatters.write({})) == (8, 7)


@pytest.mark.parametrize("entry", ["djl_python.lmi_vllm.vllm_async_service", "djl_python.deepspeed", "lmi_chat.djl"])
def test_lmis_own_handlers_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    """And are configured as ours, formatters beside them included."""
    code = "from djl_python.output_formatter import output_formatter\n\n"
    code += "@output_formatter\ndef own(answer):\n    return 7\n"
    folder = directory(tmp_path / "m", code, f"engine=DeepSpeed\noption.entryPoint={entry}\noption.max_n=3\n")
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    served: list[tuple[Settings, Formatters]] = []

    def serve(settings: Settings, formatters: Formatters) -> int:
        served.append((settings, formatters))
        return 0

    monkeypatch.setattr(directories, "serve_settings", serve)
    assert directories.run(folder, folder / "serving.properties", {"model_id": "weights"}) == 0
    ((settings, formatters),) = served
    assert (settings.limits.max_n, formatters.write and formatters.write({})) == (3, 7)
    assert settings.model_id == str(tmp_path / "weights"), "the directory is the current folder now"
    assert Path.cwd() == folder


def test_a_signal_lets_a_running_answer_finish(tmp_path: Path) -> None:
    code = "import time\nfrom djl_python import Output\n\ndef handle(inputs):\n    if not inputs.is_empty():\n"
    code += "        time.sleep(1)\n        return Output().add('done')\n"
    with running(directory(tmp_path / "m", code)) as runner:
        answers: list[tuple[int, bytes]] = []

        def ask() -> None:
            status, _, data = runner.post({})
            answers.append((status, data))

        thread = threading.Thread(target=ask)
        thread.start()
        while not is_busy(runner):
            time.sleep(0.02)
        runner.process.send_signal(signal.SIGTERM)
        thread.join(20)
        assert answers == [(200, b"done")]


def is_busy(runner: Runner) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", runner.port, timeout=10)
    connection.request("GET", "/ping")
    busy = json.loads(connection.getresponse().read())["active"] == 1
    connection.close()
    return bool(busy)


OF_A_FOLDER = """
import os

from djl_python import Input, Output

labels = open("labels.txt").read().split()  # beside this file, as DJL starts it
model = None


def handle(inputs: Input) -> Output:
    global model
    if inputs.is_empty():
        properties = inputs.get_properties()
        device = int(properties.get("device_id"))
        degree = properties.get("tensor_parallel_degree") + 0
        weights = open(os.path.join("weights", "w.txt")).read()
        model = {name: str(properties.get(name)) for name in ("task", "dtype", "max_n", "cluster_size", "model_dir")}
        model |= {"device": device, "degree": degree, "weights": weights, "labels": labels}
        return None
    return Output().add_as_json(model | {"again": int(inputs.get_property("device_id")), "here": os.getcwd()})
"""


def of_a_folder(place: Path, properties: str) -> Path:
    folder = directory(place, OF_A_FOLDER, properties)
    (folder / "labels.txt").write_text("cat dog")
    (folder / "weights").mkdir()
    (folder / "weights" / "w.txt").write_text("1")
    return folder


@pytest.mark.parametrize("engine", ["Python", "MPI", "DeepSpeed"])
def test_a_handler_finds_its_folder_and_djls_properties(tmp_path: Path, engine: str) -> None:
    """Keys that are also ours are the handler's, whatever it takes them for."""
    properties = f"engine={engine}\noption.task=custom\noption.tensor_parallel_degree=2\noption.max_n=many\n"
    folder = of_a_folder(tmp_path / "m", properties + "option.dtype=int3\noption.rolling_batch=disable\n")
    with running(folder) as runner:
        status, _, data = runner.post({})
        has_note = f"serving.properties:1: engine = {engine} starts 2 processes in DJL, and one here" in runner.log()
    assert status == 200
    answer = json.loads(data)
    assert answer == {
        "task": "custom",
        "dtype": "int3",
        "max_n": "many",
        "cluster_size": "1",
        "model_dir": str(folder),
        "device": answer["again"],
        "degree": 2,
        "weights": "1",
        "labels": ["cat", "dog"],
        "again": -1,
        "here": str(folder),
    }
    assert has_note == (engine != "Python")


@pytest.mark.parametrize("has_model_py", [True, False])
def test_lmi_chat_serve_runs_a_directorys_own_handler(tmp_path: Path, *, has_model_py: bool) -> None:
    """Whichever way the directory is named; its code may have another name."""
    folder = of_a_folder(tmp_path / "m", "option.tensor_parallel_degree=max\n")
    words = ("--model-id", str(folder))
    if not has_model_py:
        (folder / "model.py").rename(folder / "other.py")
        (folder / "serving.properties").write_text("option.entryPoint=other.py\noption.tensor_parallel_degree=1\n")
        words = ("--properties", str(folder / "serving.properties"))
    with running(folder, *words, by=("lmi_chat", "serve"), SERVING_JOB_QUEUE_SIZE="7") as runner:
        status, _, data = runner.post({})
    assert (status, json.loads(data)["here"]) == (200, str(folder))


def test_a_full_queue_is_a_503(tmp_path: Path) -> None:
    code = "import os, time\nfrom djl_python import Output\n\ndef handle(inputs):\n    if not inputs.is_empty():\n"
    code += (
        "        while not os.path.exists('go'):\n            time.sleep(0.01)\n        return Output().add('done')\n"
    )
    folder = directory(tmp_path / "m", code, "job_queue_size=2\n")
    with running(folder) as runner:
        answers: list[tuple[int, dict[str, str], bytes]] = []
        threads = [threading.Thread(target=lambda: answers.append(runner.post({}))) for _ in range(6)]
        for thread in threads:
            thread.start()
        while len(answers) < 3:  # one runs and two wait; the others are refused at once
            time.sleep(0.01)
        assert [(status, headers["retry-after"]) for status, headers, _ in answers] == [(503, "1")] * 3
        (folder / "go").touch()
        for thread in threads:
            thread.join()
    assert sorted(status for status, _, _ in answers) == [200, 200, 200, 503, 503, 503]


def test_a_handler_is_behind_the_keys_that_are_configured(tmp_path: Path) -> None:
    """In a file that is named from where the command is given, not from the directory."""
    code = "def handle(inputs):\n    return None\n"
    (tmp_path / "keys").write_text("mine=secret-key-1\n")
    file = os.path.relpath(tmp_path / "keys")
    with running(directory(tmp_path / "m", code, "option.task=custom\n"), "--api-key-file", file) as runner:
        assert runner.post({})[0] == 401
        assert runner.post({}, authorization="Bearer secret-key-1")[0] == 204


def wheel(folder: Path) -> None:
    """A package "answerer" with one module."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "answerer-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("answerer.py", "answer = 'installed'\n")
        metadata = "answerer-1.0.dist-info"
        archive.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: answerer\nVersion: 1.0\n")
        archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{metadata}/RECORD", "")


def test_requirements_are_installed_where_that_is_allowed_and_else_named(tmp_path: Path) -> None:
    code = "import answerer\nfrom djl_python import Output\n\ndef handle(inputs):\n"
    code += "    return None if inputs.is_empty() else Output().add(answerer.answer)\n"
    folder = directory(tmp_path / "m", code)
    (folder / "requirements.txt").write_text("answerer\n")
    wheel(folder / "requirements")
    with start(folder) as process:
        assert process.wait(20) == 1
    note, *_, last = [
        line for line in (tmp_path / "log").read_text().splitlines() if "lmi-chat" in line or "djl-" in line
    ]
    assert note.endswith("requirements.txt is not installed; install_requirements=true has pip install it at the start")
    assert last.endswith("entry point model.py does not load: ModuleNotFoundError: No module named 'answerer'")
    target = tmp_path / "installed"
    target.mkdir()
    paths = os.pathsep.join([str(ROOT), str(ROOT / "shim"), str(target)])
    allowed = {
        "PYTHONPATH": paths,
        "PIP_TARGET": str(target),
        "PIP_NO_INDEX": "1",
        "OPTION_INSTALL_REQUIREMENTS": "true",
    }
    with running(folder, **allowed) as runner:
        assert runner.post({})[2] == b"installed"
