"""The arguments of the p-Laplacian operators, checked."""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.errors import InputError, shape_of
from vlmadapt.ops.checks import accumulation_dtype, check_real


def check_options(
    residual: str, self_loops: str, degree: str, homogeneous: bool, eps: float, queries: int, keys: int
) -> None:
    """Raise :class:`InputError` unless the options are known and fit the numbers of queries and keys."""
    if residual not in ("query", "none"):
        raise InputError(f"residual is {residual!r}: choose 'query' or 'none'.")
    if self_loops not in ("drop", "keep"):
        raise InputError(f"self_loops is {self_loops!r}: choose 'drop' or 'keep'.")
    if degree not in ("none", "paper"):
        raise InputError(f"degree is {degree!r}: choose 'none' or 'paper'.")
    if not eps > 0:
        raise InputError(f"eps is {eps}: pass a number above 0, such as 1e-8.")
    if homogeneous and keys < queries:
        raise InputError(
            f"homogeneous needs the queries among the keys but there are {queries} queries and {keys} keys: "
            "pass at least as many keys."
        )


def power_and_pull(p: Tensor | float, mu: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
    """p and 2 mu / p as contiguous vectors [H] of the accumulation type."""
    if isinstance(p, Tensor) or isinstance(mu, Tensor):
        p, mu = _per_head("p", p, 1, like), _per_head("mu", mu, 0, like)
        return p, 2 * mu / p
    _check_range("p", p, 1)
    _check_range("mu", mu, 0)
    dtype, heads = accumulation_dtype(like.dtype), like.shape[1]
    return like.new_full((heads,), p, dtype=dtype), like.new_full((heads,), 2 * mu / p, dtype=dtype)


def _per_head(name: str, value: Tensor | float, low: float, like: Tensor) -> Tensor:
    """A number, a 0-d tensor or one value a head as a contiguous vector [H] of the accumulation type."""
    dtype, heads = accumulation_dtype(like.dtype), like.shape[1]
    check_real(name, value)
    if not isinstance(value, Tensor):
        _check_range(name, value, low)
        return like.new_full((heads,), value, dtype=dtype)
    tensor = value.to(dtype)
    if tensor.device != like.device or tensor.shape not in ((), (heads,)):
        raise InputError(
            f"{name} is {shape_of(tensor)} on {tensor.device} but must be a number or one value for each of the "
            f"{heads} heads on {like.device}."
        )
    # A look at a GPU's values would wait for it.
    if not torch.compiler.is_compiling() and tensor.device.type == "cpu" and not bool((tensor >= low).all()):
        _check_range(name, tensor.min().item(), low)
    return tensor.expand(heads).contiguous()


def _check_range(name: str, value: float, low: float) -> None:
    if not value >= low:
        raise InputError(f"{name} is {value:g}: pass at least {low:g}.")
