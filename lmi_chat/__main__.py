"""Run the command `lmi-chat`, as `python -m lmi_chat`."""

import sys

from lmi_chat.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
