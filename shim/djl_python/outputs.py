"""Output."""

from lmi_chat.djl.outputs import Output

__all__ = ["Output"]
