"""Damages to good contents, by seed: to bytes anywhere, and below the form, so that a parser is asked behind its first check."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

MOST_BYTES = 1 << 20
SIGNATURE = 8  # bytes of a PNG before its chunks
ODD = (
    None, True, False, 0, 1, -1, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "\0", "a" * 3000,
    "../x", "1e999", "nan", [], [[]], [None], {}, {"": None}, {"a": {}},
)  # fmt: skip

Damage = Callable[[Random, bytes], bytes]


def damaged(chance: Random, good: bytes, words: Sequence[bytes], most: int = 5) -> bytes:
    """One to `most` damages anywhere; half of the contents get a single one."""
    data = bytearray(good)
    for _ in range(chance.choice((1, chance.randint(1, most)))):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0:
                del data[place : place + chance.choice((1, 2, 8, 40, 400))]
            case 1:
                data[place:place] = chance.choice(words)
            case 2 if place < len(data):
                data[place] ^= 1 << chance.randrange(8)
            case 3:
                data[place:place] = data[chance.randrange(len(data) + 1) :][: chance.choice((4, 40, 400))]
            case 4:
                end = place + chance.randint(1, 8)
                data[place:end] = chance.randbytes(end - place)
            case _:
                data[place : place + 4] = chance.choice(words)
    return bytes(data[:MOST_BYTES])


def tree(chance: Random, good: bytes) -> bytes:
    """JSON with one to three values replaced by odd ones, left out, repeated, or under another name."""
    try:
        top: list[Any] = [json.loads(good)]
    except ValueError:  # one of its good contents is of another form
        return good
    for _ in range(chance.randint(1, 3)):
        places = [(top, 0), *_places(top[0])]
        holder, key = chance.choice(places)
        match chance.randrange(5):
            case 0 if holder is not top:
                del holder[key]
            case 1 if isinstance(holder, list) and holder is not top:
                holder.insert(chance.randrange(len(holder) + 1), holder[key])
            case 2 if isinstance(holder, dict):
                holder[chance.choice(("", "x" * 3000, "\ud800", "type", "id"))] = holder.pop(key)
            case 3:
                other, place = chance.choice(places)
                holder[key] = json.loads(json.dumps(other[place]))  # a copy: no tree holds itself
            case _:
                holder[key] = json.loads(json.dumps(chance.choice(ODD)))
    return json.dumps(top[0]).encode()[:MOST_BYTES]


def _places(value: Any) -> list[tuple[Any, Any]]:
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [(value, key) for key, _ in pairs] + [place for _, below in pairs for place in _places(below)]


def chunks(chance: Random, good: bytes) -> bytes:
    """A PNG with one chunk damaged, repeated or left out, under true lengths and check sums."""
    parts, place = [], SIGNATURE
    while place + 12 <= len(good):
        (length,) = struct.unpack(">I", good[place : place + 4])
        parts.append((good[place + 4 : place + 8], good[place + 8 : place + 8 + length]))
        place += 12 + length
    number = chance.randrange(len(parts))
    kind, content = parts[number]
    match chance.randrange(5):
        case 0:
            del parts[number]
        case 1:
            parts.insert(chance.randrange(len(parts) + 1), parts[number])
        case 2 if kind == b"IDAT":
            try:
                inside = damaged(chance, zlib.decompress(content), (b"\0", b"\xff", b"\5"))
            except zlib.error:
                inside = content
            parts[number] = (kind, zlib.compress(inside, 1))
        case _:
            parts[number] = (kind, damaged(chance, content, (b"\0", b"\xff", b"\0\0\0\1", b"\x7f\xff\xff\xff")))
    body = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    ]
    return (good[:SIGNATURE] + b"".join(body))[:MOST_BYTES]
