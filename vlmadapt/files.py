"""Text, JSON, CSV and tensors in files: written whole or not at all, read with errors that name the file."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from torch import Tensor

from vlmadapt.atomic import atomic_path
from vlmadapt.errors import FileError, naming_file
from vlmadapt.seals import sealed, sealed_metadata, unsealed, unsealed_metadata, without_seal

MOST_TEXT = 1 << 30  # bytes of a JSON, CSV or other text file: the largest published annotations have a third of it
# What zipfile and numpy stumble over in damaged files.
BROKEN_ZIP = (
    *(zipfile.BadZipFile, zlib.error, EOFError, KeyError, IndexError, NotImplementedError, RuntimeError),
    *(MemoryError, SyntaxError, TypeError, OverflowError, struct.error),
)
MOST_ARRAYS = 1 << 33  # bytes of all arrays of an .npz file, unpacked


@contextmanager
def open_file(path: str | Path, most: int | None = None) -> Iterator[BufferedReader]:
    """An ordinary file of at most ``most`` bytes, opened to be read: the way in for whatever a user or a list names.

    A pipe may never begin and a device never end, so neither is opened, whatever its name and however many links lead
    to it. Raises :class:`FileError` naming ``path``.
    """
    path = os.fspath(path)  # of a number, `open` would take the file that is open under it, and close it
    with naming_file(path, "read"):
        _refuse_special(path, os.stat(path))
        # Nor does it wait at a pipe that took the file's place between the two lines.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as stream:
            found = os.fstat(stream.fileno())
            _refuse_special(path, found)
            if most is not None and found.st_size > most:
                raise FileError(
                    f"{path} has {found.st_size:,} bytes, more than the {most:,} that are read: give a smaller file."
                )
            yield stream


def _refuse_special(path: str | Path, found: os.stat_result) -> None:
    """Folders are left to ``open``, which names them itself."""
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise FileError(f"{path} is a pipe, a socket or a device, which is not read: give an ordinary file.")


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """All of a file; raises what :func:`open_file` raises."""
    with open_file(path, most) as stream:
        return stream.read()


def write_text(path: str | Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinities are refused, since JSON has no such numbers."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark; line ends stay as they are.

    Which of them is told by the mark, or by the zero bytes of the first two characters (RFC 4627, section 3). Raises
    :class:`FileError` naming the file for any other encoding, and where it holds NUL characters or more than
    ``MOST_TEXT`` bytes.
    """
    data = read_bytes(path, MOST_TEXT)
    encoding = json.detect_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        where = f"byte {data[error.start]:#04x} at position {error.start}, read as {encoding}"
        raise FileError(f"{path} is not UTF-8 text ({where}): save it as UTF-8.") from error
    if "\0" in text:
        raise FileError(f"{path} is not UTF-8 text (it holds NUL characters): save it as UTF-8.")
    return text


def parse_json(text: str, path: str | Path, line: int | None = None) -> Any:
    """``text`` as JSON; raises :class:`FileError` naming ``path`` and the line where it is malformed.

    So is an object that gives a key twice. ``line``: where ``text`` stands in the file, if it is one line of it.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        reason, line = error.msg, line or error.lineno
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:  # a key twice, or a number of too many digits
        reason = str(error)
    place = "" if line is None else f" at line {line}"
    raise FileError(f"{path} is not valid JSON: {reason}{place}: correct it or remove it.")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object gives {repeated!r} twice")
    return found


def read_json(path: str | Path) -> Any:
    """Read JSON; raises what :func:`read_text` and :func:`parse_json` raise."""
    return parse_json(read_text(path), path)


def check_format(path: str | Path, found: object, known: int | str, again: str) -> None:
    """Raise :class:`FileError` unless ``path`` has the format ``known``; ``again`` says how to make the file anew."""
    if found != known:
        raise FileError(f"{path} has format {found!r}, this version of vlmadapt reads {known}: {again}.")


def write_versioned(path: str | Path, value: Mapping[str, Any], version: int) -> None:
    """:func:`write_json` of an object, with its ``format`` and the hash of its content."""
    write_json(path, sealed({"format": version, **value}))


def read_versioned(path: str | Path, version: int, again: str) -> dict[str, Any]:
    """What :func:`write_versioned` wrote, without its format; a file that names none is of 0.1.0, hence of format 1.

    Raises :class:`FileError` as :func:`read_json`, :func:`check_format` and :func:`vlmadapt.seals.unsealed` do, and
    where the file holds no object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise FileError(f"{path} holds a JSON {type(value).__name__}, not an object: {again}.")
    check_format(path, value.get("format", 1), version, again)
    content = unsealed(path, value, again)
    content.pop("format", None)
    return content


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors, atomically, with their hash; :class:`FileError` where that fails."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary, naming_tensors(path):
        safetensors.torch.save_file(contiguous, temporary, metadata=sealed_metadata(contiguous, metadata or {}))


@contextmanager
def naming_tensors(path: str | Path) -> Iterator[None]:
    """Turn an error of safetensors, raised while it writes ``path``, into a :class:`FileError` that names it."""
    try:
        yield
    except safetensors.SafetensorError as error:
        raise FileError(f"could not write {path}: {error}.") from error


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors and its string metadata.

    Raises :class:`FileError` naming a file that cannot be read, or does not hold what :func:`write_tensors` wrote.
    """
    with _opened_tensors(path) as stream:
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        metadata = dict(stream.metadata() or {})
    return tensors, unsealed_metadata(path, tensors, metadata, "make it again")


def read_metadata(path: str | Path) -> dict[str, str]:
    """The string metadata of a safetensors file. Raises :class:`FileError` naming the file."""
    with _opened_tensors(path) as stream:
        return without_seal(stream.metadata() or {})


@contextmanager
def _opened_tensors(path: str | Path) -> Iterator[Any]:
    """The library checks the header against the file's length before it makes a tensor; headers end at 100 MB."""
    # It reports a missing file without its errno; open_file names the reason.
    with open_file(path):
        try:
            with safetensors.safe_open(path, framework="pt") as stream:
                yield stream
        except safetensors.SafetensorError as error:
            raise FileError(f"{path} is not a readable safetensors file: {error}.") from error


def read_arrays(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an ``.npz`` file by name; what is pickled in it is never opened.

    Raises :class:`FileError` naming a file that is none, holds anything but plain arrays or more than ``MOST_ARRAYS``
    bytes of them.
    """
    with open_file(path) as stream:
        try:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise FileError(f"{path} is not a readable .npz file: it holds no named arrays.")
            size = sum(each.file_size for each in archive.zip.infolist())  # type: ignore[union-attr, misc]
            if size > MOST_ARRAYS:
                raise FileError(
                    f"{path} holds {size:,} bytes of arrays, more than the {MOST_ARRAYS:,} that are read: give a "
                    "smaller file, or safetensors."
                )
            return {name: _plain_array(path, archive, name) for name in archive.files}
        except (*BROKEN_ZIP, OSError, ValueError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{path} is not a readable .npz file: {_first_line(error)}.") from error


def _plain_array(path: str | Path, archive: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        array = archive[name]
    except (*BROKEN_ZIP, OSError, ValueError) as error:
        raise FileError(
            f"{path} holds {name!r}, which is no plain array ({_first_line(error)}): save numbers and text only, for "
            "pickles are not read."
        ) from error
    if not isinstance(array, np.ndarray):
        raise FileError(f"{path} holds {name!r}, which is no array: save numbers and text with numpy.savez.")
    return array


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]


def sha256_of_file(path: str | Path, most: int | None = None) -> str:
    """sha256 (hex) of a file's bytes; raises what :func:`open_file` raises."""
    with open_file(path, most) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
