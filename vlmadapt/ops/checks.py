"""Checks of operator arguments that need no look at the data, so that they trace under ``torch.compile``."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import forward_ad

from vlmadapt.errors import InputError, shape_of

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_matrix(name: str, tensor: Tensor) -> None:
    """Raise :class:`InputError` unless ``tensor`` is a floating matrix, all of its numbers in a row, and no dual."""
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name} is a {type(tensor).__name__}: give a tensor.")
    if tensor.layout != torch.strided:
        raise InputError(f"{name} is {tensor.layout}: pass {name}.to_dense().")
    refuse_forward_mode(name, tensor)
    if tensor.dim() != 2 or tensor.dtype not in FLOATS:
        raise InputError(
            f"{name} must be a float32, float64, bfloat16 or float16 matrix but is {shape_of(tensor)}: "
            "reshape or cast it."
        )


def refuse_forward_mode(name: str, tensor: Tensor) -> None:
    """Raise :class:`InputError` for a dual tensor: torch takes zeros for forward derivatives that it is not told."""
    if torch.compiler.is_compiling():
        return
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        raise InputError(
            f"{name} has a forward-mode tangent, and the compiled operators have none: use reverse mode (backward, "
            "torch.autograd.grad), or plain torch."
        )


def check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise :class:`InputError` unless both are on the same device."""
    if tensor.device != other.device:
        raise InputError(
            f"{name} is on {tensor.device} but {other_name} is on {other.device}: move both to the same device."
        )


def check_same(name: str, tensor: Tensor, other_name: str, other: Tensor, width: bool = True) -> None:
    """Raise :class:`InputError` unless dtype, device and (by default) last size are the same."""
    if tensor.dtype != other.dtype or tensor.device != other.device:
        raise InputError(
            f"{name} is {shape_of(tensor)} on {tensor.device} but {other_name} is {shape_of(other)} on {other.device}: "
            "give both the same dtype and device."
        )
    if width and tensor.shape[-1] != other.shape[-1]:
        raise InputError(
            f"{name} is {tensor.shape[-1]} wide but {other_name} is {other.shape[-1]} wide: "
            "both must come from the same encoder."
        )


def is_integer(tensor: Tensor) -> bool:
    """Whether the type is one of whole numbers; bool is none."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def check_indices(name: str, tensor: Tensor, count: int) -> Tensor:
    """An int64 vector of ``count`` elements, else :class:`InputError`; other integer types are converted."""
    if tensor.dim() != 1 or not is_integer(tensor):
        raise InputError(f"{name} must be a vector of integers but is {shape_of(tensor)}: pass int64 indices.")
    if len(tensor) != count:
        raise InputError(f"{name} has {len(tensor)} elements but {count} are needed: give one for each row.")
    return tensor.to(torch.int64).contiguous()


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type sums are kept in: float64 for float64, float32 for every narrower type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def per_row(name: str, value: Tensor | float, like: Tensor) -> Tensor | float:
    """A number as it is, a 0-d tensor or one value a row of ``like`` as a vector of the accumulation type: contiguous,
    or one value expanded, which costs no kernel. :class:`InputError` for another shape or device."""
    dtype = accumulation_dtype(like.dtype)
    check_real(name, value)
    if not isinstance(value, Tensor):
        if not torch.compiler.is_compiling() and abs(value) > torch.finfo(dtype).max:
            raise InputError(f"{name} is {value}, more than {dtype} can hold: give a smaller number.")
        return float(value)
    if value.device != like.device or value.shape not in ((), (like.shape[0],)):
        raise InputError(
            f"{name} is {shape_of(value)} on {value.device} but must be a number or one value for each of the "
            f"{like.shape[0]} queries on {like.device}."
        )
    return value.to(dtype).contiguous().expand(like.shape[0])


def check_real(name: str, value: Tensor | float) -> None:
    """Raise :class:`InputError` for complex numbers, whose imaginary part would be lost, and for no finite number."""
    if isinstance(value, Tensor):
        refuse_forward_mode(name, value)
    elif not isinstance(value, (int, float, complex)):
        raise InputError(f"{name} is a {type(value).__name__}: give a number or a tensor.")
    elif not torch.compiler.is_compiling() and isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} is {value}: give a finite number.")
    if isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex()):
        shown = shape_of(value) if isinstance(value, Tensor) else value
        raise InputError(f"{name} is {shown}: pass real numbers.")


def allow_tf32(tensor: Tensor) -> bool:
    """Whether float32 products on a GPU may be rounded to TF32; never on a CPU.

    Under ``torch.compile`` the setting at the time of compilation counts.
    """
    return tensor.device.type == "cuda" and matmul_takes_tf32()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def matmul_takes_tf32() -> bool:
    """The setting of either of torch's interfaces; ``allow_tf32`` raises once the newer one was used."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def float32_products(tensor: Tensor) -> int:
    """How a kernel may multiply float32, in the numbers of ``Float32`` (``csrc/cache_retrieval/kernel.h``): 0 as it is,
    1 on a GPU as TF32 and on a CPU as the sum of two bfloat16, 2 on a CPU as one bfloat16.

    Under ``torch.compile`` the setting at the time of compilation counts.
    """
    return cpu_float32_products() if tensor.device.type == "cpu" else int(allow_tf32(tensor))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def cpu_float32_products() -> int:
    """What ``torch.set_float32_matmul_precision`` says, or the newer interface that it sets."""
    setting = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    return {"tf32": 1, "bf16": 2}.get(setting, 0)
