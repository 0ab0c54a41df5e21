"""Read the API keys that requests must carry, from the setting and from a file."""

import re
from pathlib import Path

from lmi_chat.config.sources import BadSetting
from lmi_chat.text import one_line

LEAST_CHARS, MOST_CHARS = 8, 512
FILE_BYTES = 2**20
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEY = re.compile(r"[!-+\--~]+")  # visible ASCII without the comma


def read(text: str, file: str = "") -> dict[str, str]:
    """Read keys by their names from `text`, separated by commas, and from `file`, one on each line.

    Each is `name=key`, or a key alone, which is named by its place: key-1. Empty lines and those that begin with # say
    nothing. Raises BadSetting, which shows no key.
    """
    given = [("api_key", word) for word in text.split(",")]
    if file:
        given += [(f"{one_line(file, 200)}:{number}", line) for number, line in enumerate(_lines(file), start=1)]
    keys: dict[str, str] = {}
    for place, written in given:
        word = written.strip()
        if not word or (place != "api_key" and word.startswith("#")):
            continue
        name, sign, key = word.partition("=")
        if not sign or not NAME.fullmatch(name):
            name, key = f"key-{len(keys) + 1}", word
        if not LEAST_CHARS <= len(key) <= MOST_CHARS or not KEY.fullmatch(key):
            raise BadSetting(
                f"{place}: the key {name} must have {LEAST_CHARS} to {MOST_CHARS} characters of visible ASCII and no "
                f"comma, got {len(key)} characters"
            )
        if name in keys or key in keys.values():
            raise BadSetting(f"{place}: the key {name} is given twice, by its name or by its value")
        keys[name] = key
    if file and not keys:
        raise BadSetting(f"api_key_file: {one_line(file, 200)} holds no key; without keys anybody could ask")
    return keys


def _lines(file: str) -> list[str]:
    try:
        with Path(file).open("rb") as opened:
            data = opened.read(FILE_BYTES + 1)
        if len(data) > FILE_BYTES:
            raise BadSetting(f"api_key_file: {one_line(file, 200)} is larger than {FILE_BYTES} bytes")
        return data.decode().splitlines()
    except OSError as error:
        raise BadSetting(f"api_key_file: {one_line(file, 200)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadSetting(f"api_key_file: {one_line(file, 200)} is not UTF-8") from error
