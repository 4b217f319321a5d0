"""Damage: to bytes, and to JSON values."""

from __future__ import annotations

import json
from random import Random
from typing import Any

TOKENS = [
    b"\0", b"\n", b"\r", b'"', b"'", b",", b";", b"{", b"}", b"[", b"]" * 9, b"[" * 3000, b"\\ud800", b"\\u0000",
    b"NaN", b"-Infinity", b"1e999", b"-1", b"9" * 5000, b"1e-400", b"null", b"true", b'""', b"\xff\xfe",
    b"\xef\xbb\xbf", b"\xff", b"\xc3", b"../", b"/", b"%s{}", b"\xf0\x9f\x90\x88", b"e\xcc\x81", b"\xe2\x80\xae",
    b"\x1b[31m", b"\t",
]  # fmt: skip
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ", "nan",
    "\ud800", "\0", "a\nb", "../..", "x" * 300, [], {}, [[]], [None], {"": None}, {"format": 99}, "猫", "1", "-",
]  # fmt: skip
DEEP = 30


def damaged(random: Random, data: bytes) -> bytes:
    """``data`` after one to three changes: bits, cuts, repeats, exchanges, odd tokens."""
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        data = _damaged_once(random, data)
    return data


def _damaged_once(random: Random, data: bytes) -> bytes:
    place = random.randrange(len(data) + 1)
    end = min(len(data), place + random.choice([1, 2, 4, 8, 64, 1000]))
    match random.randrange(8):
        case 0 | 1 if data:
            place = random.randrange(len(data))
            return data[:place] + bytes([data[place] ^ (1 << random.randrange(8))]) + data[place + 1 :]
        case 2:
            return data[:place]
        case 3:
            return data[:place] + data[end:]
        case 4:
            return data[:end] + data[place:end] + data[end:]
        case 5:
            return data[:place] + bytes(random.randrange(256) for _ in range(min(end - place, 8))) + data[end:]
        case 6:
            lines = data.split(b"\n")
            random.shuffle(lines)
            return b"\n".join(lines)
    return data[:place] + random.choice(TOKENS) + data[place:]


def bit_flipped(random: Random, data: bytes) -> bytes:
    """One bit of ``data``, which is not empty."""
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << random.randrange(8))]) + data[place + 1 :]


def changed(random: Random, value: Any) -> Any:
    """A JSON ``value`` with one node replaced, left out, doubled or renamed; the old one is not touched."""
    value = json.loads(json.dumps(value))
    holders: list[Any] = []

    def gather(node: Any) -> None:
        if isinstance(node, (dict, list)) and node:
            holders.append(node)
            for inner in node.values() if isinstance(node, dict) else node:
                gather(inner)

    gather(value)
    if not holders:
        return random.choice(ODD_VALUES)
    holder = random.choice(holders)
    if isinstance(holder, list):
        place = random.randrange(len(holder))
        match random.randrange(4):
            case 0:
                del holder[place]
            case 1:
                holder.append(holder[place])
            case _:
                holder[place] = odd(random)
        return value
    key = random.choice(sorted(holder))
    match random.randrange(5):
        case 0:
            del holder[key]
        case 1:
            holder[key + "_"] = holder.pop(key)
        case 2:
            holder[key] = holder[random.choice(sorted(holder))]
        case _:
            holder[key] = odd(random)
    return value


def odd(random: Random) -> Any:
    """A value that hardly anything expects."""
    value = random.choice(ODD_VALUES)
    if random.randrange(20) == 0:
        for _ in range(DEEP):
            value = [value]
    return value
