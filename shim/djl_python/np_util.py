"""DJL's NDList."""

from lmi_chat.djl.ndlist import decode as from_nd_list
from lmi_chat.djl.ndlist import encode as to_nd_list

__all__ = ["from_nd_list", "to_nd_list"]
