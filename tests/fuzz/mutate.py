"""Mutate bytes by a seeded generator: flips, cuts, copies, words of HTTP and JSON, a splice of two samples."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES = 64 * 2**10
WORDS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b": ",
        b" ",
        b"\t",
        b"\0",
        b"\xff",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
    ),
    *(b"0", b"-1", b"1e400", b"NaN", b"Infinity", b"9" * 400, b"18446744073709551616", b"0.0000001", b"true", b"null"),
    *(b'""', b"{}", b"[]", b"[" * 70, b'{"a":' * 70, b'"\\ud800"', b'"\\u0000"', b"\\", b'"', b",", b"{", b"}", b"]"),
    *(
        b"Content-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Host: y\r\n",
    ),
    *(
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"5;a=b\r\n",
        b"%2e%2e/",
        b"?a=%zz",
        b"//x/",
        b"*",
    ),
    *(
        b"GET",
        b"POST",
        b"HEAD",
        b"OPTIONS",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"X-A: " + b"a" * 9000,
    ),
    *(
        b'"messages":',
        b'"inputs":',
        b'"prompt":',
        b'"stream":true',
        b'"n":16',
        b'"max_tokens":1',
        b'"parameters":{',
        b'"role":',
    ),
    *(
        b'"stop":["a"]',
        b'"logit_bias":{"5":1}',
        b'"response_format":{"type":"json_object"}',
        b'"requestType":"NEW_SESSION"',
    ),
)


def samples(suffix: str) -> list[bytes]:
    """The stored corpus, in the order of its names."""
    return [path.read_bytes() for path in sorted(CORPUS.glob(f"*{suffix}"))]


def mutated(random: Random, corpus: Sequence[bytes]) -> bytes:
    """One sample after some changes."""
    data = bytearray(random.choice(corpus))
    for _ in range(random.choice((1, 1, 2, 3, 6, 12))):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((1, 1, 2, 4, 16, 64)))
        match random.randrange(7):
            case 0 if start < len(data):
                data[start] ^= 1 << random.randrange(8)
            case 1:
                del data[start:end]
            case 2:
                data[start:start] = random.choice(WORDS)
            case 3:
                data[start:end] = random.choice(WORDS)
            case 4:
                data[start:start] = data[start:end] * random.choice((1, 2, 50))
            case 5:
                other = random.choice(corpus)
                data[start:] = other[random.randrange(len(other) + 1) :]
            case _:
                data[start:end] = random.randbytes(end - start)
    return bytes(data[:MOST_BYTES])


VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        1.5,
        16,
        2**31,
        2**63,
        2**64,
        10**30,
        1e308,
        -0.0,
        "",
        " ",
        "a",
        "\0",
        "\ud800",
        "\u2028",
    ),
    *(
        "a" * 5000,
        "\U0001f40e" * 300,
        [],
        {},
        [[]],
        [None],
        [""],
        ["a"] * 300,
        {"": None},
        {"type": "text"},
        {"type": []},
    ),
    *(
        [1, "a"],
        [-1],
        [2**40],
        {"5": 1},
        {"a": {"a": {"a": {}}}},
        "auto",
        "NEW_SESSION",
        "none",
        "a/../b",
        "<|im_end|>",
    ),
    *(
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}},
        "[",
        "(a+)+$",
        "root ::= ",
    ),
)


def changed(random: Random, corpus: Sequence[bytes]) -> bytes:
    """One sample of JSON with some of its values changed, moved, left out or taken from another sample."""
    body = json.loads(random.choice(corpus))
    for _ in range(random.choice((1, 1, 2, 4))):
        holder, key = _place(random, body)
        match random.randrange(5):
            case 0:
                del holder[key]
            case 1:
                other = json.loads(random.choice(corpus))
                other_holder, other_key = _place(random, other)
                holder[key] = other_holder[other_key]
            case 2 if isinstance(holder, dict):
                other = json.loads(random.choice(corpus))
                name = random.choice(list(other))
                holder[name] = other[name] if random.random() < 0.5 else deepcopy(random.choice(VALUES))
            case 3 if isinstance(holder[key], list):
                holder[key] = holder[key] * random.choice((2, 20))
            case _:
                holder[key] = deepcopy(random.choice(VALUES))
        if not body:
            break
    return json.dumps(body, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


def _place(random: Random, body: Any) -> tuple[Any, Any]:
    """Some object or array within `body`, which is not empty, and one of its keys."""
    holder = body
    while True:
        key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if not isinstance(holder[key], dict | list) or not holder[key] or random.random() < 0.3:
            return holder, key
        holder = holder[key]
