"""Runs kernels of one library in a process of its own, so that a fault (ASan's exit, a deadlock) stays there.

Started as ``python worker.py library.so``. A request on standard input is a line of JSON and the input bytes; the
answer is a line of JSON and the bytes of every buffer. Buffers have guard bytes on both sides, all of them 0xff: a
NaN in every floating type, so that a stray read shows and a stray write is found. Under ASan each buffer is exactly
one allocation instead.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

GUARD = 256
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


def serve(path: str) -> None:
    exact = "libasan" in os.environ.get("LD_PRELOAD", "")
    library = ctypes.CDLL(path)
    library.simt_fault.restype = ctypes.c_char_p
    library.simt_configure.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_int]
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while line := stdin.readline():
        request = json.loads(line)
        buffers = [None if size is None else Buffer(stdin.read(size), exact) for size in request["buffers"]]
        pointers = (ctypes.c_void_p * max(len(buffers), 1))(*[b.address if b else None for b in buffers])
        sizes = (ctypes.c_int64 * max(len(request["sizes"]), 1))(*request["sizes"])
        library.simt_configure(*request["schedule"])
        code = getattr(library, request["function"])(sizes, pointers)
        answer = {
            "code": code,
            "fault": library.simt_fault().decode(errors="replace"),
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
