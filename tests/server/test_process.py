"""A stop while the engine is loaded."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_stop_while_loading_ends_at_once(tmp_path: Path) -> None:
    """The thread that imports the engine cannot be stopped; the process ends all the same, with exit code 0."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("import time; time.sleep(600)")
    (tmp_path / "config.json").write_text("{}")
    words = [sys.executable, "-m", "lmi_chat", "serve", "--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with subprocess.Popen(
        [*words, "--model-id", str(tmp_path)], stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if "importing the engine" in line:
                server.send_signal(signal.SIGTERM)
                break
        else:
            raise AssertionError("".join(said))
        try:
            assert server.wait(20) == 0
        finally:
            server.kill()
