"""Count the bytes that the prepared media of all requests have until their answers' end, up to a bound."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lmi_chat.errors import Busy
from lmi_chat.job import Job
from lmi_chat.observability import refusals

BOUND = "media_bytes_in_flight"


class PreparedMedia:
    """The bytes of all requests' prepared media."""

    def __init__(self) -> None:
        """Begin with none."""
        self.bytes_held = 0

    @contextmanager
    def counted(self, jobs: Sequence[Job], most: int) -> Iterator[None]:
        """Count the media of a request's `jobs` in this block. Raises Busy where all would have more than `most` bytes.

        One that has more for itself has its turn when no other is there.
        """
        held = {id(job.media): job.media.nbytes for job in jobs if job.media is not None}
        size = sum(held.values())
        if self.bytes_held and self.bytes_held + size > most:
            text = (
                f"{self.bytes_held} bytes of prepared images, audio and videos are held, of at most {most} "
                f"(option.{BOUND}); send the request again later"
            )
            refusals.record(BOUND, text)
            raise Busy(text)
        self.bytes_held += size
        try:
            yield
        finally:
            self.bytes_held -= size
