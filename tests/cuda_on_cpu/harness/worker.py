"""Runs kernels of one library in a process of its own, so that a fault (ASan's exit, a deadlock) stays there.

Started as ``python worker.py library.so``. A request on standard input is a line of JSON and the input bytes; the
answer is a line of JSON and the bytes of every buffer. Buffers have guard bytes on both sides, all of them 0xff: a
NaN in every floating type, so that a stray read shows and a stray write is found. Under ASan each buffer is exactly
one allocation instead. Of a library for a GPU (gpu/route.cu) the buffers, guards included, are on the device.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any

GUARD = 256
MOST_MUTANTS = 4096  # as in simt/mutants.h
libc = ctypes.CDLL(None)
libc.aligned_alloc.restype = ctypes.c_void_p
libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


class Buffer:
    def __init__(self, content: bytes, exact: bool) -> None:
        self.size, self.guard = len(content), 0 if exact else GUARD
        total = self.size + 2 * self.guard
        rounded = total if exact else (total + GUARD - 1) // GUARD * GUARD
        # ASan's malloc is 16-byte aligned, which is what the kernels' vector accesses need.
        self.base = libc.malloc(max(rounded, 1)) if exact else libc.aligned_alloc(GUARD, rounded)
        ctypes.memset(self.base, 0xFF, rounded)
        self.address = self.base + self.guard
        ctypes.memmove(self.address, content, self.size)

    def content(self) -> bytes:
        return ctypes.string_at(self.address, self.size)

    def guards_intact(self) -> bool:
        before = ctypes.string_at(self.base, self.guard)
        after = ctypes.string_at(self.address + self.size, self.guard)
        return before + after == b"\xff" * (2 * self.guard)

    def free(self) -> None:
        libc.free(self.base)


class DeviceBuffer:
    """The same on a device: guards, content and guards in one piece, copied in and out."""

    def __init__(self, content: bytes, library: ctypes.CDLL) -> None:
        self.size, self.library = len(content), library
        self.bytes = b"\xff" * GUARD + content + b"\xff" * GUARD
        self.base = library.route_allocate(len(self.bytes)) or 0
        self.address = self.base + GUARD
        library.route_write(self.base, self.bytes, len(self.bytes))

    def fetch(self) -> None:
        out = ctypes.create_string_buffer(len(self.bytes))
        self.library.route_read(out, self.base, len(self.bytes))
        self.bytes = out.raw

    def content(self) -> bytes:
        return self.bytes[GUARD : GUARD + self.size]

    def guards_intact(self) -> bool:
        return self.bytes[:GUARD] + self.bytes[GUARD + self.size :] == b"\xff" * (2 * GUARD)

    def free(self) -> None:
        self.library.route_free(self.base)


class Emulation:
    """A library whose memory is this process's."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library, self.exact = library, "libasan" in os.environ.get("LD_PRELOAD", "")
        library.simt_fault.restype = library.simt_launches.restype = ctypes.c_char_p
        library.simt_configure.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_int]

    def buffer(self, content: bytes) -> Buffer:
        return Buffer(content, self.exact)

    def prepare(self, schedule: list[int]) -> None:
        self.library.simt_configure(*schedule)

    def choose(self, mutant: int) -> None:
        """Of a library with mutants in it (simt/mutants.h): -1 is none of them."""
        ctypes.c_int.in_dll(self.library, "simt_mutant").value = mutant
        ctypes.memset((ctypes.c_ubyte * MOST_MUTANTS).in_dll(self.library, "simt_met"), 0, MOST_MUTANTS)

    def met(self) -> list[int]:
        """The mutants that would have changed something in the last call."""
        return [i for i, met in enumerate((ctypes.c_ubyte * MOST_MUTANTS).in_dll(self.library, "simt_met")) if met]

    def fault(self, buffers: list[Any]) -> str:
        return self.library.simt_fault().decode(errors="replace")

    def launches(self) -> list[str]:
        """The kernels of the last call, as the launcher names them."""
        return self.library.simt_launches().decode().splitlines()


class Device:
    """A library of a device; of an emulated one (simt_configure is there) the schedule can be chosen too."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.emulation = Emulation(library) if hasattr(library, "simt_configure") else None
        library.route_finish.restype = ctypes.c_char_p
        library.route_allocate.restype = ctypes.c_void_p
        library.route_allocate.argtypes = [ctypes.c_int64]
        library.route_free.argtypes = [ctypes.c_void_p]
        for copy in (library.route_write, library.route_read):
            copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]

    def buffer(self, content: bytes) -> DeviceBuffer:
        return DeviceBuffer(content, self.library)

    def prepare(self, schedule: list[int]) -> None:
        if self.emulation:
            self.emulation.prepare(schedule)
        self.library.route_poison_shared()

    def launches(self) -> list[str]:
        return []  # a device keeps no list

    def fault(self, buffers: list[Any]) -> str:
        text = self.library.route_finish().decode(errors="replace")
        if not text and self.emulation:
            text = self.emulation.fault([])
        if not text:
            for buffer in buffers:
                buffer.fetch()
            text = self.library.route_finish().decode(errors="replace")
        return text


def serve(path: str) -> None:
    library = ctypes.CDLL(path)
    on_device = hasattr(library, "route_finish")
    backend = Device(library) if on_device else Emulation(library)
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while line := stdin.readline():
        request = json.loads(line)
        buffers = [None if size is None else backend.buffer(stdin.read(size)) for size in request["buffers"]]
        pointers = (ctypes.c_void_p * max(len(buffers), 1))(*[b.address if b else None for b in buffers])
        sizes = (ctypes.c_int64 * max(len(request["sizes"]), 1))(*request["sizes"])
        backend.prepare(request["schedule"])
        switched = backend if isinstance(backend, Emulation) and "mutant" in request else None
        if switched:
            switched.choose(request["mutant"])
        code = getattr(library, request["function"])(sizes, pointers)
        fault = backend.fault([b for b in buffers if b])
        answer = {
            "code": code,
            "fault": fault,
            "lost": on_device and bool(code or fault),
            "launches": backend.launches(),
            "met": switched.met() if switched else [],
            "spilled": [i for i, b in enumerate(buffers) if b and not b.guards_intact()],
        }
        stdout.write(json.dumps(answer).encode() + b"\n")
        for b in buffers:
            if b:
                stdout.write(b.content())
                b.free()
        stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
