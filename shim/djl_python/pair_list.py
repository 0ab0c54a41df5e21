"""PairList."""

from lmi_chat.djl.pair_list import PairList

__all__ = ["PairList"]
