"""Serve behind DJL Serving's Python engine: `handle` and the adapters' three functions are the entry point's.

The classes of `djl_python` are DJL Serving's own; where it is not, they are the distribution djl-serving's (`shim/`).
"""

from lmi_chat.djl.handler import handle, register_adapter, unregister_adapter, update_adapter

__all__ = ["handle", "register_adapter", "unregister_adapter", "update_adapter"]
