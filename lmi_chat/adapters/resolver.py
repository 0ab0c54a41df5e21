"""Find adapters by their names in a folder, here or in S3.

A name is one part of a path at most, so that none leaves the folder, and a link in it that leads out is not followed.
What was not there is not looked for again for a while: each look-up may be a request to S3.
"""

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lmi_chat.adapters import NAME
from lmi_chat.adapters.files import CONFIG
from lmi_chat.adapters.sources import ADVICE
from lmi_chat.errors import Unavailable
from lmi_chat.fetching import FetchFailed, s3

ARCHIVE = ".tar.gz"
LOOKS = 4
"""Names that are looked for at once; others wait."""
MISSED_S, MISSED_MOST = 10.0, 10_000
"""For so long, and of so many names, it is known that there is none."""


class AdapterResolver:
    """Looks for adapters in `folder`: `<name>/` with an adapter's files, or `<name>.tar.gz`."""

    def __init__(self, folder: str, *, missed_s: float = MISSED_S) -> None:
        self._folder, self._missed_s = folder, missed_s
        self._missed: OrderedDict[str, float] = OrderedDict()
        self._threads = ThreadPoolExecutor(LOOKS, "adapter-names")  # S3 may be slow: nobody else's
        self._client: Any = None

    async def find(self, name: str) -> str:
        """Find the source of the adapter called `name`; "" where there is none. Raises Unavailable."""
        if not NAME.fullmatch(name) or time.monotonic() - self._missed.get(name, -self._missed_s) < self._missed_s:
            return ""
        look = self._in_s3 if s3.ADDRESS.fullmatch(self._folder) else self._on_disk
        src = await asyncio.get_running_loop().run_in_executor(self._threads, look, name)
        if src:
            self._missed.pop(name, None)
        else:
            self._note_missed(name)
        return src

    def _note_missed(self, name: str) -> None:
        self._missed[name] = time.monotonic()
        self._missed.move_to_end(name)
        while len(self._missed) > MISSED_MOST:
            self._missed.popitem(last=False)

    def _on_disk(self, name: str) -> str:
        home = Path(self._folder).resolve()
        for path, proof in ((home / name, home / name / CONFIG), (home / (name + ARCHIVE),) * 2):
            if path.resolve().is_relative_to(home) and proof.is_file():
                return str(path)
        return ""

    def _in_s3(self, name: str) -> str:
        address: Any = s3.ADDRESS.fullmatch(self._folder)
        bucket, key = address["bucket"], (address["key"] or "").rstrip("/")
        begin = f"{key}/{name}" if key else name
        try:
            with s3.Sentences(self._folder, bucket, Path(), ADVICE):
                client = self._client = self._client or s3.client(self._folder)  # each takes long to build
                for found, proof in ((f"{begin}/", f"{begin}/{CONFIG}"), (begin + ARCHIVE,) * 2):
                    listed = client.list_objects_v2(Bucket=bucket, Prefix=proof, MaxKeys=1)
                    if any(each["Key"] == proof for each in listed.get("Contents", ())):
                        return f"s3://{bucket}/{found}"
        except FetchFailed as error:
            raise Unavailable(f"adapter_folder: {error}", param="adapters") from error
        return ""
