"""What `make run` starts, as `make -n` prints it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("environment", "words", "port"),
    [
        ({}, (), "8080"),
        ({"SAGEMAKER_BIND_TO_PORT": "9123"}, (), "9123"),
        ({"SAGEMAKER_BIND_TO_PORT": "9123"}, ("PORT=9000",), "9000"),
        ({"SAGEMAKER_BIND_TO_PORT": "9123", "PORT": "9001"}, (), "9001"),
    ],
)
def test_the_port_of_make_run(environment: dict[str, str], words: tuple[str, ...], port: str) -> None:
    own = {
        name: value for name, value in os.environ.items() if not re.match(r"M(AKE)?FLAGS|MAKE|PORT$|SAGEMAKER", name)
    }
    command = ["make", "-n", "--no-print-directory", "ENGINE=cpu", "run", *words]
    shown = subprocess.run(command, cwd=ROOT, env=own | environment, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"lmi-chat serve .*--port (\S+)", shown) == [port]
