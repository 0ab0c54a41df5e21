"""Declare where a surface takes the frames of an answer."""

from typing import Protocol

from lmi_chat.errors import Error


class ResponseSink(Protocol):
    """Takes an answer: HTTP, DJL, a test."""

    async def whole(self, body: bytes, content_type: str) -> None:
        """Send one document."""

    async def start(self, content_type: str) -> None:
        """Begin a stream."""

    def write(self, data: bytes) -> None:
        """Send one frame of a stream; returns at once and never fails for a client that is gone."""

    def fail(self, error: Error, frame: bytes) -> None:
        """Send a stream's last frame, which carries the error; otherwise as `write`."""

    async def end(self) -> None:
        """End the stream."""
