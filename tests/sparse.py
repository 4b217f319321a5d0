"""Arrays far larger than memory, of which only the pages that are written take any."""

from __future__ import annotations

import math
import mmap
import sys

import numpy as np
import pytest

MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python names it from 3.13 on
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's private zero pages")


def sparse_zeros(shape: tuple[int, ...], dtype: type | str) -> np.ndarray:
    """Zeros; reading them takes no memory, writing takes 4 KiB a page."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)
