"""Serve a DJL Serving model directory without Java, with or without code of its own: the command `djl-serving`."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lmi_chat.cli import main as cli
from lmi_chat.cli.directory import DIRECTORY_ERRORS, run
from lmi_chat.config import sources
from lmi_chat.config.sources import BadSetting
from lmi_chat.server import process as serve
from lmi_chat.text import one_line


def main(words: Sequence[str] | None = None) -> int:
    """Serve one model directory; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="djl-serving",
        description="Serve a DJL Serving model directory without Java.",
        epilog="any key of lmi-chat's configuration is an option too: --port 8081",
        allow_abbrev=False,
    )
    parser.add_argument("directory", nargs="?", help="a folder with serving.properties, model.py or a model")
    parser.add_argument("-m", "--models", help="the same, as DJL's own command takes it")
    known, rest = parser.parse_known_args(words)
    try:
        folder = _folder(known.directory or known.models)
        path = folder / sources.PROPERTIES
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # process 1 of a container would ignore it until then
        return run(folder, path if path.is_file() else None, cli.pairs(rest))
    except DIRECTORY_ERRORS as error:
        sys.stderr.write(f"djl-serving: {error}\n")
        return 2 if isinstance(error, BadSetting) else serve.FAILED


def _folder(named: str | None) -> Path:
    """DJL's command writes `name::Python=file:///folder`; the folder is what counts here. Raises BadSetting."""
    if not named:
        raise BadSetting("which model directory? djl-serving DIRECTORY")
    folder = Path(named.rpartition("=")[2].removeprefix("file://"))
    if not folder.is_dir():
        raise BadSetting(f"there is no model directory {one_line(str(folder), 200)}")
    return folder.resolve()


if __name__ == "__main__":
    sys.exit(main())
