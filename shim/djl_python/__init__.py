"""DJL Serving's Python classes where DJL Serving is not: lmi-chat's own."""

from lmi_chat.djl.inputs import Input
from lmi_chat.djl.outputs import Output
from lmi_chat.djl.pair_list import PairList

__all__ = ["Input", "Output", "PairList"]
