"""The mark of an input formatter."""

from lmi_chat.djl.formatters import input_formatter

__all__ = ["input_formatter"]
