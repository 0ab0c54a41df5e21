"""DJL Serving's entry point: `option.entryPoint=model.py`. The functions are lmi_chat.djl's."""

from lmi_chat.djl import handle, register_adapter, unregister_adapter, update_adapter

__all__ = ["handle", "register_adapter", "unregister_adapter", "update_adapter"]
