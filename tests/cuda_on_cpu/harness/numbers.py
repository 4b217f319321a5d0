"""Element types that NumPy lacks, and the steps between representable numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

DTYPE_CODE = {"f32": 0, "f64": 1, "bf16": 2, "f16": 3}  # csrc/common/dtype.h
EPSILON = {"f32": 2.0**-23, "f64": 2.0**-52, "bf16": 2.0**-7, "f16": 2.0**-10, "tf32": 2.0**-10}


STORED = {"tf32": "f32"}  # tf32 is a way to multiply float matrices, not a way to store them


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values as the bytes a kernel reads; bfloat16 is uint16 here."""
    dtype = STORED.get(dtype, dtype)
    if dtype == "bf16":
        bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.asarray(values, {"f32": np.float32, "f64": np.float64, "f16": np.float16}[dtype])


def round_tf32(values: ArrayLike) -> np.ndarray:
    """float32 to ten bits of mantissa, nearest, ties away from zero (cvt.rna)."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def decode(stored: np.ndarray, dtype: str) -> np.ndarray:
    """What the kernel multiplies, in float64."""
    if dtype == "tf32":
        return round_tf32(stored).astype(np.float64)
    if dtype == "bf16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def accumulation(dtype: str) -> type[np.floating[Any]]:
    return np.float64 if dtype == "f64" else np.float32


def poison(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Every byte 0xff: a NaN in floating types, -1 in integers."""
    return np.frombuffer(b"\xff" * (int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype).reshape(shape)
