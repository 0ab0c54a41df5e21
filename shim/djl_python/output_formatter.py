"""The mark of an output formatter."""

from lmi_chat.djl.formatters import output_formatter

__all__ = ["output_formatter"]
