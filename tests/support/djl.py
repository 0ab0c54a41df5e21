"""Make the Inputs that DJL makes."""

from djl_python import Input


def given(data: bytes, content_type: str = "") -> Input:
    inputs = Input()
    inputs.properties = {"Content-Type": content_type} if content_type else {}
    inputs.content.add("data", bytearray(data))
    return inputs
