"""DJL Serving's entry point: `option.entryPoint=model.py`. The handler is lmi_chat.djl's."""

from lmi_chat.djl import handle

__all__ = ["handle"]
