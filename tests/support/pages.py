"""Read the code blocks of README.md, CONTRIBUTING.md, docs/ and docker/, for the tests that run them."""

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docker/README.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
EMBEDDING, LORA = "of an embedding model", "of a deployment with LoRA"
SPEECH = "of a speech model"
OTHER_MODELS = {EMBEDDING, LORA, SPEECH}
"""Marks of examples that the default model cannot answer."""
BLOCK = re.compile(
    r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$(?:\n\n```(?:json|text)\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One block of a page, and the output that the page shows right below it (None: no output is shown)."""

    page: str
    mark: str
    language: str
    code: str
    shown: str | None

    def __str__(self) -> str:
        return f"{self.page}-{self.code[:24].strip()}"


BLOCKS = [
    Block(page, mark or "", language, code, shown or None)
    for page, text in PAGES.items()
    for mark, language, code, shown in BLOCK.findall(text)
]
EXAMPLES = [block for block in BLOCKS if block.language in {"sh", "python"} and block.shown]
COMMANDS = [block for block in BLOCKS if block.language == "sh" and not block.shown]
MODULES = [block for block in BLOCKS if block.language == "python" and not block.shown]
OTHERS = [block for block in BLOCKS if block.language not in {"sh", "python"}]
"""What no program reads: outputs without a command, drawings."""


def here(code: str, port: int) -> str:
    """The same commands with this interpreter, from this source, on `port`."""
    module = f"{sys.executable} -m lmi_chat"
    for name, used in (
        (".venv/bin/djl-serving", f"{module}.cli.djl_serving"),
        (".venv/bin/lmi-chat", module),
        ("localhost:8080", f"127.0.0.1:{port}"),
        ("--port 8080", f"--port {port}"),
    ):
        code = code.replace(name, used)
    return code


def environment(port: int) -> dict[str, str]:
    """Where an endpoint's name and this source's modules are found."""
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'shim'}",
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def said_by(block: Block, port: int, folder: Path) -> str:
    """What an example prints, run in `folder` against the server on `port`."""
    code = here(block.code, port)
    if block.language == "sh":
        words = ["bash", "-euo", "pipefail", "-c", code]
        given = environment(port)
        done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60, cwd=folder, env=given)
        return done.stdout
    output = io.StringIO()
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(output):
        exec(compile(code, block.page, "exec"), names)  # noqa: S102 our own page
    for name in {"client", "runtime"} & names.keys():
        names[name].close()
    return output.getvalue()
