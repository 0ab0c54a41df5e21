"""podman or docker on this machine: found, or installed where that is possible, and the image that it builds."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/lmi-chat:cpu"
OWN_BASE, SUITE = "localhost/lmi-chat-base:bookworm", "bookworm"
OFFICIAL_BASE = "python:3.11-slim-bookworm"
PACKAGES = ("podman", "runc", "netavark", "debootstrap")
NEEDED = f"the container test needs podman or docker; on Debian and Ubuntu: apt-get install {' '.join(PACKAGES)}"
LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
ENOUGH = 10_000
PULL_S = 180.0
BUNDLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


class Unavailable(Exception):
    """No container can be built or run here; one sentence with what to install."""


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


@dataclass(frozen=True)
class Tool:
    """podman or docker, with what it must be told on this machine."""

    name: str
    build: tuple[str, ...] = ()
    run: tuple[str, ...] = ()

    def __call__(self, *words: str, seconds: float = 60) -> str:
        """Run one command and give what it prints; a failure shows what it said."""
        done = subprocess.run([self.name, *words], capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == 0, f"{self.name} {' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def inspect(self, name: str) -> Any:
        return json.loads(self("inspect", name))[0]


def find() -> Tool:
    """The tool to use: podman, else docker with its daemon, else podman newly installed. Raises Unavailable."""
    if not shutil.which("podman"):
        if (
            shutil.which("docker")
            and not subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
        ):
            return Tool("docker")
        _install(*PACKAGES)
    # Without systemd, and with cgroups that crun does not know, as in many virtual machines: runc, no timer for health
    # checks, and no higher limits than this process may set.
    runtime = ("--runtime", "runc") if shutil.which("runc") else ()
    limits = [f"--ulimit={name}={_allowed(kind)}" for name, kind in LIMITS.items()]
    running = (*runtime, *limits, "--no-healthcheck", "--read-only-tmpfs=false")
    return Tool("podman", build=("--isolation", "chroot", "--format", "docker", *runtime), run=running)


def _allowed(kind: int) -> str:
    hard = resource.getrlimit(kind)[1]
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    return f"{most}:{most}"


def _install(*packages: str) -> None:
    if os.geteuid() or not shutil.which("apt-get"):
        raise Unavailable(NEEDED)
    say(f"installing {' '.join(packages)}")
    install = ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *packages]
    for words in (["apt-get", "-qq", "update"], install):
        if subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode:
            raise Unavailable(f"{NEEDED} (which failed here)")


def base(tool: Tool) -> str:
    """What CPU_BASE is: the Dockerfile's own where a registry answers, else a Debian made here. Raises Unavailable."""
    if chosen := os.environ.get("CPU_BASE"):
        return chosen
    for name in (OWN_BASE, OFFICIAL_BASE):
        if not subprocess.run([tool.name, "image", "inspect", name], capture_output=True, check=False).returncode:
            return name
    with suppress(subprocess.TimeoutExpired):
        pull = [tool.name, "pull", OFFICIAL_BASE]
        if not subprocess.run(pull, capture_output=True, timeout=PULL_S, check=False).returncode:
            return OFFICIAL_BASE
    if not shutil.which("debootstrap"):
        _install("debootstrap")
    say(f"no container registry answers: making the base image from Debian's packages ({SUITE})")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        mirror = [os.environ["DEBIAN_MIRROR"]] if "DEBIAN_MIRROR" in os.environ else []
        options = ["--variant=minbase", "--include=python3,python3-venv,ca-certificates"]
        made = subprocess.run(
            ["debootstrap", *options, SUITE, name, *mirror], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise Unavailable(f"debootstrap could not make a base image: {made.stdout[-500:]}")
        with subprocess.Popen(["tar", "-C", name, "-c", "."], stdout=subprocess.PIPE) as packed:
            subprocess.run([tool.name, "import", "-", OWN_BASE], stdin=packed.stdout, capture_output=True, check=True)
    say(f"base image: {time.monotonic() - began:.0f} s")
    return OWN_BASE


def _configured(name: str) -> str:
    """One of pip's settings on this machine."""
    if given := os.environ.get(f"PIP_{name.upper().replace('-', '_')}"):
        return given
    words = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


@contextmanager
def secrets() -> Iterator[tuple[str, ...]]:
    """pip's package index and certificates of this machine as options of a build; neither gets into the image."""
    with tempfile.TemporaryDirectory() as folder:
        conf, words = Path(folder) / "pip.conf", []
        index = {name: _configured(name) for name in ("index-url", "extra-index-url")}
        conf.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in index.items() if value))
        words.append(f"--secret=id=pip.conf,src={conf}")
        bundle = next((os.environ[name] for name in BUNDLES if os.environ.get(name)), _configured("cert"))
        if Path(bundle).is_file():
            words.append(f"--secret=id=ca.crt,src={bundle}")
        yield tuple(words)


def build(tool: Tool) -> str:
    """Build the target `cpu` and give its name, or the name in $IMAGE; says how long it took and how large it is."""
    if given := os.environ.get("IMAGE"):
        return given
    with_base = ("--build-arg", f"CPU_BASE={base(tool)}")
    before = tool("images", "--quiet", "--no-trunc", IMAGE)
    say("building the image (the engine's packages are several GB)")
    began = time.monotonic()
    target = ("--file", "docker/Dockerfile", "--target", "cpu", "--tag", IMAGE)
    with secrets() as options:
        words = [tool.name, "build", *tool.build, "--network", "host", *with_base, *options, *target, str(ROOT)]
        done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    if before and before != tool("images", "--quiet", "--no-trunc", IMAGE):
        subprocess.run([tool.name, "rmi", before], capture_output=True, check=False)  # it holds gigabytes
    size = int(tool.inspect(IMAGE)["Size"])
    say(f"image: {size / 1e9:.2f} GB, built in {time.monotonic() - began:.0f} s")
    return IMAGE
