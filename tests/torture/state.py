"""What lies in a folder after a run, as far as two runs must agree: all but times, sizes of memory and cache shards."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from vlmadapt.errors import FileError
from vlmadapt.seals import unsealed

CACHE = "cache/features"
TIMES = {"fit_seconds", "seconds_per_step", "peak_memory_mib", "seconds"}
COLUMNS = {"fit s", "peak MiB", "s a step"}


def state(root: Path) -> dict[str, Any]:
    """Each folder and file below ``root`` with its content; the feature cache by the pictures it knows."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.startswith(CACHE) and path.suffix == ".safetensors":
            found.update(_features(path, path.parent.relative_to(root).as_posix()))
        elif path.suffix == ".safetensors":
            found[name] = _tensors(path)
        else:
            found[name] = "folder" if path.is_dir() else _content(path)
    return found


def difference(found: dict[str, Any], expected: dict[str, Any], whole_cache: bool = True) -> list[str]:
    """In words; without ``whole_cache`` features may be absent from the cache, which costs time and nothing else, or be
    of another batch, which rounds otherwise; and what an I/O error kept there goes with the next run that reads it."""
    left = [name for name in sorted(found.keys() - expected.keys()) if whole_cache or not name.startswith(CACHE)]
    said = [f"left over: {name}" for name in left]
    for name in sorted(expected):
        if name not in found and (whole_cache or not name.startswith("cache")):
            said.append(f"missing: {name}")
        elif name in found and not _same(found[name], expected[name], exactly=whole_cache):
            said.append(f"other content: {name}")
    return said


def _same(found: Any, expected: Any, exactly: bool) -> bool:
    if isinstance(found, np.ndarray) and isinstance(expected, np.ndarray):
        return np.array_equal(found, expected) or (not exactly and np.allclose(found, expected, rtol=0, atol=1e-6))
    return type(found) is type(expected) and bool(found == expected)


def _features(path: Path, folder: str) -> dict[str, np.ndarray]:
    with safe_open(path, framework="pt") as stream:
        digests, features = stream.get_tensor("digests"), stream.get_tensor("features")
    return {
        f"{folder}/{bytes(digest).hex()}": row for digest, row in zip(digests.numpy(), features.numpy(), strict=True)
    }


def _tensors(path: Path) -> dict[str, Any]:
    """The order in which safetensors writes metadata is no other content."""
    with safe_open(path, framework="pt") as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        hashed = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
        return {"tensors": hashed, "metadata": stream.metadata()}


def _content(path: Path) -> Any:
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            return _timeless(_unsealed(path, json.loads(data)))
        if path.suffix == ".csv":
            return [_timeless(row) for row in csv.DictReader(io.StringIO(data.decode()))]
        if path.suffix == ".md":
            return _table(data.decode())
        if path.suffix == ".html":  # whose numbers are those of the other files, times and what is not timed among them
            data = re.sub(rb"\d[\d.,e+-]*|(?<=>)-(?=<)", b"0", data)
    except (ValueError, FileError):  # cut off or damaged
        pass
    return hashlib.sha256(data).hexdigest()


def _unsealed(path: Path, value: Any) -> Any:
    """The hash of the content covers times too: it is checked, and left out."""
    return unsealed(path, value, "it is damaged") if isinstance(value, dict) else value


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items() if name not in TIMES}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def _table(text: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    header = next((row for row in rows if len(row) > 2), [])
    kept = [number for number, name in enumerate(header) if name not in COLUMNS]
    return [[row[number] for number in kept] if len(row) == len(header) and row[1:] else row for row in rows]
