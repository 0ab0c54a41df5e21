"""DJL Serving's side: what its Python engine calls in a model directory, and what such directories import.

`handle`, `register_adapter`, `update_adapter` and `unregister_adapter` are the entry point's functions. The other
modules are the classes of `djl_python` for machines without DJL; the distribution `djl-serving` gives them that name.
"""

from lmi_chat.djl.handler import handle, register_adapter, unregister_adapter, update_adapter

__all__ = ["handle", "register_adapter", "unregister_adapter", "update_adapter"]
