"""The image's health check: ends with 0 when the server takes work. The image has no curl.

It asks where the server listens: the port and certificate of its settings, read from the same places in the same order.
It imports nothing of the server, since it runs every few seconds.
"""

import http.client
import os
import ssl
import sys
from pathlib import Path

PREFIXES = ("OPTION_", "SERVING_")
OTHERS = {"port": ("SAGEMAKER_BIND_TO_PORT", "SM_VLLM_PORT"), "ssl_certfile": ("SM_VLLM_SSL_CERTFILE",)}
RENAMED = {"ssl_certfile": ("certificate_file",)}
MODEL = Path("/opt/ml/model")
STARTED = Path("/proc/1/cmdline")
FILE = "serving.properties"


def folded(name: str) -> str:
    """Spelling does not count: capitals, dashes, underscores."""
    return name.lower().replace("-", "").replace("_", "")


def command_line() -> dict[str, str]:
    """What the server was started with: the words of process 1, which it is in a container."""
    try:
        words = STARTED.read_bytes().decode().split("\0")
    except (OSError, ValueError):
        return {}
    given = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, has_value, value = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            given[folded(name)] = value if has_value else following
    return given


def in_environment() -> dict[str, str]:
    """The server's own variables."""
    pairs = [(name.partition("_")[2], text) for name, text in os.environ.items() if name.startswith(PREFIXES)]
    return {folded(name): text for name, text in pairs}


def in_file(named: str) -> dict[str, str]:
    """The lines of serving.properties: the named one, else the model's, else the working folder's."""
    model = next(
        filter(None, map(os.environ.get, ("OPTION_MODEL_ID", "SERVING_MODEL_ID", "HF_MODEL_ID", "SM_VLLM_MODEL"))), ""
    )
    places = [Path(named)] if named else [Path(folder, FILE) for folder in (model, MODEL, Path()) if folder]
    path = next((place for place in places if place.is_file()), None)
    given = {}
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path else ():
        name, separator, text = line.replace(":", "=", 1).partition("=") if "=" not in line else line.partition("=")
        if separator and not line.lstrip().startswith(("#", "!")):
            given[folded(name.strip().removeprefix("option."))] = text.strip()
    return given


def setting(key: str, default: str) -> str:
    """A setting by the first place that names it."""
    words = command_line()
    names = [folded(name) for name in (key, *RENAMED.get(key, ()))]
    for source in (words, in_environment(), in_file(words.get("properties", ""))):
        if text := next((source[name] for name in names if source.get(name)), ""):
            return text
    return next((text for name in OTHERS[key] if (text := os.environ.get(name, "").strip())), default)


def main() -> int | str:
    """Ask once."""
    port = int(setting("port", "8080"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    if setting("ssl_certfile", ""):
        # its own certificate, which names the host that clients know, not this address
        context = ssl._create_unverified_context()  # noqa: S323, SLF001 nothing secret is sent, and only a status read
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=context)
    try:
        connection.request("GET", "/ping")
        return int(connection.getresponse().status != http.client.OK)
    except OSError as error:
        return f"no answer on port {port}: {error}"


if __name__ == "__main__":
    sys.exit(main())
