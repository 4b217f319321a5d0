"""The products of cache_retrieval's chunked route through torch's dispatcher: matrices that are views of memory."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.cuda_on_cpu.harness import toolchain

ROOT = Path(__file__).resolve().parents[2]
TORCH = Path(torch.__file__).parent


@pytest.fixture(scope="module")
def multiply(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    headers = toolchain.cuda_include()
    if shutil.which("g++") is None or headers is None or sys.platform != "linux":
        pytest.skip("no g++ or no CUDA headers")
    library = tmp_path_factory.mktemp("products") / "products.so"
    flags = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-DTORCH_TARGET_VERSION=0x020a000000000000ULL"]
    include = [f"-I{ROOT / 'csrc'}", "-isystem", str(TORCH / "include"), "-isystem", str(headers)]
    source = Path(__file__).with_name("torch_products.cpp")
    link = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-ltorch_cpu"]
    subprocess.run(["g++", *flags, *include, str(source), "-o", str(library), *link], check=True)
    torch.ops.load_library(library)
    found: Callable[..., None] = torch.ops.vlmadapt_products.multiply
    return found


def drawn(rows: int, columns: int, dtype: torch.dtype, transposed: bool) -> tuple[Tensor, Tensor]:
    """What lies in memory, and the matrix that it is meant as."""
    stored = torch.rand(columns, rows, dtype=dtype) if transposed else torch.rand(rows, columns, dtype=dtype)
    return stored, stored.T if transposed else stored


@pytest.mark.parametrize("right_transposed", [False, True])
@pytest.mark.parametrize("left_transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products(
    multiply: Callable[..., None], dtype: torch.dtype, left_transposed: bool, right_transposed: bool
) -> None:
    left, a = drawn(5, 7, dtype, left_transposed)
    right, b = drawn(7, 3, dtype, right_transposed)
    out = torch.full((5, 3), torch.nan, dtype=dtype)
    multiply(left, right, out, left_transposed, right_transposed)
    torch.testing.assert_close(out, a @ b)
    multiply(left, right, out, left_transposed, right_transposed)  # nothing of the first is added
    torch.testing.assert_close(out, a @ b)


def test_no_inner_dimension(multiply: Callable[..., None]) -> None:
    out = torch.full((2, 3), torch.nan)
    multiply(torch.empty(2, 0), torch.empty(0, 3), out, False, False)
    assert out.eq(0).all()


@contextlib.contextmanager
def wide_products_on_a_cpu() -> Iterator[None]:
    """Torch has them on CUDA alone: here they show that the call arrives with the arguments it takes there."""

    def wide(left: Tensor, right: Tensor, out_dtype: torch.dtype, *, out: Tensor) -> Tensor:
        assert out_dtype == out.dtype == torch.float32 and left.dtype == right.dtype != torch.float32
        return out.copy_(left.float() @ right.float())

    library = torch.library.Library("aten", "IMPL")
    try:
        library.impl("mm.dtype_out", wide, "CPU")
        yield
    finally:
        library._destroy()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_of_16_bits_are_float(multiply: Callable[..., None], dtype: torch.dtype) -> None:
    left, right, out = torch.rand(4, 6, dtype=dtype), torch.rand(3, 6, dtype=dtype), torch.empty(4, 3)
    with wide_products_on_a_cpu() if out.is_cpu else contextlib.nullcontext():
        multiply(left, right, out, False, True)
    torch.testing.assert_close(out, left.float() @ right.float().T)
