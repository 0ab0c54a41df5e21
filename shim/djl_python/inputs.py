"""Input."""

from lmi_chat.djl.inputs import Input

__all__ = ["Input"]
