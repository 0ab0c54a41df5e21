"""One API process, attached to an engine that somebody else runs: `lmi-chat serve`, or vLLM's own `vllm serve`.

    python bench/attached.py ours|vllm --input ipc://… --output ipc://… --port 8080 [engine arguments of vLLM]

Both are the programs as they are: settings, event loop, HTTP server and log handlers included, access logs off. Only
the step that would start an engine is given addresses in its place.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]


def ours(addresses: dict[str, str], words: Sequence[str]) -> int:
    """`lmi-chat serve`, up to its end."""
    from lmi_chat.cli import main as cli
    from lmi_chat.engine.vllm import engine as vllm

    vllm.load = functools.partial(vllm.load, addresses=addresses)
    return cli.main(["serve", *words, "--access-log", "off"])


def vllm(addresses: dict[str, str], words: Sequence[str]) -> int:
    """`vllm serve` with one API process, as entrypoints/cli/serve.py starts it where engines are elsewhere."""
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server_worker
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([*words, "--disable-uvicorn-access-log"])
    validate_parsed_serve_args(args)
    address, listener = setup_server(args, reuse_port=False)
    client = {**addresses, "client_count": 1, "client_index": 0}
    uvloop.run(run_server_worker(address, listener, args, client_config=client))
    return 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="An API process on a running engine.", allow_abbrev=False)
    parser.add_argument("which", choices=("ours", "vllm"))
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    known, words = parser.parse_known_args()
    addresses = {"input_address": known.input, "output_address": known.output}
    return {"ours": ours, "vllm": vllm}[known.which](addresses, words)


if __name__ == "__main__":
    sys.exit(main())
