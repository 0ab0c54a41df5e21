"""Keep LoRA adapters: fetch their files, register them, load them into the engine while requests need them."""

import re

NAME_MOST = 128
NAME_PATTERN = rf"(?!\.+$)[A-Za-z0-9._-]{{1,{NAME_MOST}}}"
"""An adapter's name: one part of a path at most."""
NAME = re.compile(NAME_PATTERN)
