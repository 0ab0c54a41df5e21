"""What can be said of the image from its text alone; `make container-test` builds and runs it."""

import os
import re
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from lmi_chat.cli.main import pairs
from lmi_chat.config.settings import read

ROOT = Path(__file__).parents[1]
LINES = re.sub(r"\\\n", " ", (ROOT / "docker" / "Dockerfile").read_text()).splitlines()
PING = ROOT / "docker" / "ping.py"
SERVED = ("LABEL", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD", "WORKDIR")


def stage(name: str) -> list[str]:
    """The instructions of one stage, each on one line."""
    start = next(number for number, line in enumerate(LINES) if re.fullmatch(rf"FROM \S+ AS {name}", line))
    end = next((number for number, line in enumerate(LINES) if number > start and line.startswith("FROM ")), len(LINES))
    return [re.sub(r"\s+", " ", line) for line in LINES[start:end] if line and not line.startswith("#")]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_target_is_started_as_sagemaker_does(target: str) -> None:
    lines = stage(target)
    assert 'ENTRYPOINT ["lmi-chat"]' in lines
    assert lines[-1] == 'CMD ["serve"]'
    label = next(line for line in lines if line.startswith("LABEL"))
    for capability in ("accept-bind-to-port", "bidirectional-streaming"):
        assert f'com.amazonaws.sagemaker.capabilities.{capability}="true"' in label
    assert "multi-models" not in label
    assert not any(line.startswith(("USER", "VOLUME")) for line in lines)
    assert any("--compile-bytecode" in line and f"--override overrides-{target}.txt" in line for line in lines)


def test_models_can_be_fetched_from_s3(tmp_path: Path) -> None:
    """The list of packages that the build makes, by its own line."""
    line = next(line for line in stage("tools") if "optional-dependencies" in line)
    code = line.removeprefix('RUN python3 -c "').removesuffix('"').replace("f'/requ", f"f'{tmp_path}/requ")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    for target in ("cpu", "gpu"):
        listed = (tmp_path / f"requirements-{target}.txt").read_text().splitlines()
        assert any(name.startswith("boto3>=") for name in listed)
        assert any(name.startswith("vllm") for name in listed)


def test_the_targets_differ_only_in_what_is_installed() -> None:
    cpu, gpu = ([line for line in stage(name) if line.startswith(SERVED)] for name in ("cpu", "gpu"))
    assert len(cpu) == len(SERVED)
    assert cpu == gpu


def test_whatever_asks_the_package_index_has_its_secrets_and_keeps_no_cache() -> None:
    for line in LINES:
        if line.startswith("RUN") and re.search(r"indexed (pip|uv) ", line) and "--offline" not in line:
            assert "--mount=type=secret,id=pip.conf" in line
            assert "--mount=type=secret,id=ca.crt" in line
            assert re.search(r"--no-cache", line)


def test_the_bases_are_arguments_and_nothing_names_a_host() -> None:
    assert sum(line.startswith(("ARG CPU_BASE=", "ARG GPU_BASE=")) for line in LINES) == 2
    assert {line.split()[1] for line in LINES if line.startswith("FROM")} == {"${CPU_BASE}", "${GPU_BASE}"}
    assert not any("://" in line for line in LINES)


def test_only_pytorch_comes_from_another_index() -> None:
    """Of the versions of several indexes the highest is never taken, and all but PyTorch has hashes."""
    assert "unsafe" not in (ROOT / "docker" / "indexed.sh").read_text()
    for target in ("cpu", "gpu"):
        [install] = [line for line in stage(target) if "uv venv" in line]
        first, second = re.findall(r"indexed uv pip install ([^&;]*)", install)
        assert "--no-deps" in first
        assert '--default-index "$TORCH_INDEX_URL"' in first
        assert f"'s/^\\(torch[^ ]*\\) .*/\\1/p' constraints-{target}.txt" in install
        assert f"--constraint constraints-{target}.txt" in second
        assert "index" not in second
    assert any("--require-hashes" in line for line in stage("tools"))


def test_what_the_build_sees_is_a_list_of_what_it_copies() -> None:
    """Neither .git nor an environment: all is out but what is named."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in allowed)
    copies = [line.split()[1:-1] for line in LINES if line.startswith("COPY") and "--from" not in line]
    copied = {name.removesuffix("/*-cpu.txt").removesuffix("/*-gpu.txt") for names in copies for name in names}
    assert copied - {"requirements/constraints-cpu.txt"} == allowed


class Ping(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/ping" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the library's name
        """Say nothing."""


KINDS = {"max_model_len": "int"}
PLACES = [
    ({}, "", []),
    ({"SAGEMAKER_BIND_TO_PORT": "9001"}, "", []),
    ({"SAGEMAKER_BIND_TO_PORT": "9001", "SERVING_PORT": "9002"}, "", []),
    ({"SAGEMAKER_BIND_TO_PORT": "9001", "OPTION_PORT": "9003"}, "", []),
    ({"SM_VLLM_PORT": "9004"}, "", []),
    ({"SM_VLLM_PORT": "9004", "SAGEMAKER_BIND_TO_PORT": "9001"}, "", []),
    ({"SAGEMAKER_BIND_TO_PORT": "9001"}, "option.port=9005", []),
    ({"OPTION_PORT": "9003"}, "option.port=9005", []),
    ({}, "# option.port=1\nport: 9006\noption.max_model_len=7\n", []),
    ({"OPTION_PORT": "9003"}, "", ["--port", "9007"]),
    ({"OPTION_PORT": "9003"}, "", ["--port=9008"]),
    ({"OPTION_SSL_CERTFILE": "/a"}, "option.ssl_certfile=/b", []),
    ({}, "option.ssl_certfile=/b", []),
    ({"SERVING_CERTIFICATE_FILE": "/c"}, "", []),
    ({}, "certificate_file=/d", []),
    ({"SM_VLLM_SSL_CERTFILE": "/e"}, "", []),
    ({}, "", ["--ssl-certfile", "/f"]),
]


@pytest.mark.parametrize(("environment", "file", "words"), PLACES)
def test_the_health_check_asks_where_the_server_listens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], file: str, words: list[str]
) -> None:
    """Its reading of the settings is the server's: all sources, in their order."""
    spec = spec_from_file_location("ping", PING)
    assert spec is not None
    assert spec.loader is not None
    check = module_from_spec(spec)
    spec.loader.exec_module(check)
    (tmp_path / "serving.properties").write_text(file)
    (tmp_path / "cmdline").write_bytes(b"\0".join(word.encode() for word in ("lmi-chat", "serve", *words, "")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "STARTED", tmp_path / "cmdline")
    monkeypatch.setattr(check, "MODEL", tmp_path / "none")
    for name in [name for name in os.environ if name.startswith(("OPTION_", "SERVING_", "SM_VLLM_", "SAGEMAKER_"))]:
        monkeypatch.delenv(name)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    settings = read(pairs(words), environment, tmp_path / "serving.properties", KINDS)
    assert int(check.setting("port", "8080")) == settings.port
    assert check.setting("ssl_certfile", "") == settings.ssl_certfile


def test_the_health_check_speaks_https_where_the_server_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=elsewhere"]
    subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setattr(Ping, "status", 200)
    with HTTPServer(("127.0.0.1", 0), Ping) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.handle_request, daemon=True).start()
        environment = {"OPTION_PORT": str(server.server_port), "OPTION_SSL_CERTFILE": str(certificate)}
        done = subprocess.run([sys.executable, "-I", str(PING)], env=environment, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check(monkeypatch: pytest.MonkeyPatch, status: int | None, code: int) -> None:
    with HTTPServer(("127.0.0.1", 0), Ping) as server:
        environment = {"SAGEMAKER_BIND_TO_PORT": str(server.server_port)}
        if status is None:
            server.server_close()
        else:
            monkeypatch.setattr(Ping, "status", status)
            threading.Thread(target=server.handle_request, daemon=True).start()
        done = subprocess.run([sys.executable, "-I", str(PING)], env=environment, check=False, capture_output=True)
    assert done.returncode == code, done.stderr
