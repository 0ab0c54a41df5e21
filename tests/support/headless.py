"""Start a node's engines without a server, as `vllm serve MODEL --headless` does; that command's words.

vLLM's build for CPUs is named otherwise than its command line expects, which does not start with it.
"""

import sys


def main(words: list[str]) -> None:
    """Run until the engines end."""
    from vllm.entrypoints.cli.serve import run_headless
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    args.api_server_count = 0
    run_headless(args)


if __name__ == "__main__":
    main(sys.argv[1:])
