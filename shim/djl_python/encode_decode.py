"""Content types and Python objects."""

from lmi_chat.djl.encode_decode import decode, decode_csv, encode, encode_csv

__all__ = ["decode", "decode_csv", "encode", "encode_csv"]
