"""p-Laplacian attention: one step of p-Laplacian message passing over the graph of attention.

With attention probabilities ``A`` as edge weights between queries and keys, node features ``x_query`` and
``x_value`` (arXiv 2312.10613; message passing of arXiv 2111.07337):

    M[i, j] = A[i, j] * norm(sqrt(A[i, j]) * (x_query[i] - x_value[j])) ** (p - 2)
    out[i]  = (sum_j M[i, j] x_value[j] + (2 mu / p) r[i]) / (sum_j M[i, j] + 2 mu / p)

``r`` is ``x_query`` (the papers' form) or 0 (what the released code computes in cross-attention).
:func:`p_laplacian` takes the probabilities; :func:`p_laplacian_attention` takes queries and keys and never stores
them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmadapt.errors import InputError, shape_of
from vlmadapt.ops import library, p_laplacian_autograd  # noqa: F401  (registers gradients)
from vlmadapt.ops.checks import FLOATS, accumulation_dtype, check_device
from vlmadapt.ops.p_laplacian_reference import (
    PLaplacianOutput,
    Residual,
    SelfLoops,
    attention_probabilities,
    p_laplacian_attention_reference,
    p_laplacian_reference,
)

__all__ = [
    "PLaplacianOutput",
    "attention_probabilities",
    "p_laplacian",
    "p_laplacian_attention",
    "p_laplacian_attention_reference",
    "p_laplacian_reference",
]


def p_laplacian(
    attention: Tensor,
    x_query: Tensor,
    x_value: Tensor,
    p: Tensor | float,
    mu: Tensor | float,
    *,
    residual: Residual = "query",
    self_loops: SelfLoops = "drop",
    homogeneous: bool = False,
    eps: float = 1e-8,
) -> Tensor:
    """p-Laplacian message passing along given attention probabilities.

    Args:
        attention: ``[B, H, Lq, Lk]`` float32, float64, bfloat16 or float16, entries >= 0; a zero is no edge.
        x_query: ``[B, H, Lq, d]``, same dtype and device.
        x_value: ``[B, H, Lk, d]``.
        p: >= 1; a number, a 0-d tensor or one value a head ``[H]``. At 2 the weights are ``attention`` itself.
        mu: >= 0, pull towards ``r``; as ``p``.
        residual: ``"query"``: ``r = x_query`` (arXiv 2111.07337); ``"none"``: ``r = 0`` (the released code).
        self_loops: what becomes of pairs whose features coincide, where the power is singular for p < 2.
            ``"drop"``: they have no edge unless p is 2 (arXiv 2111.07337); with ``homogeneous`` the pair of a node
            with itself has none at any p. ``"keep"``: the released arithmetic, ``eps`` added to every coordinate
            of ``sqrt(A) (x_query - x_value)``; such edges then dominate.
        homogeneous: queries and keys are the same nodes (self-attention), the queries being the last ``Lq`` of the
            ``Lk`` (all of them, or the new ones when decoding): query i is key ``i + Lk - Lq``.
        eps: of ``self_loops="keep"``, > 0.

    Returns:
        ``[B, H, Lq, d]`` in the inputs' dtype; sums are kept in float32 (float64 for float64). A row without edges
        gives ``r``. Under autocast everything is float32.

    Differentiable once in attention, x_query, x_value, p and mu, with finite gradients where attention is zero or
    features coincide: such pairs count as constant there. NaN in an input gives NaN.

    Raises:
        InputError: shapes, dtypes or devices disagree, or p, mu or eps is out of range.
    """
    tensors = {"attention": attention, "x_query": x_query, "x_value": x_value}
    attention, x_query, x_value = _checked(tensors)
    _check_shape("x_query", x_query, [*attention.shape[:3], x_query.shape[-1]])
    _check_shape("x_value", x_value, [*attention.shape[:2], attention.shape[3], x_query.shape[-1]])
    _check_options(residual, self_loops, homogeneous, eps, attention.shape[2], attention.shape[3])
    p, pull = _power_and_pull(p, mu, attention)
    out, _row_sum = torch.ops.vlmadapt.p_laplacian(
        attention.contiguous(),
        x_query.contiguous(),
        x_value.contiguous(),
        p,
        pull,
        residual == "query",
        self_loops == "keep",
        homogeneous and self_loops == "drop",
        eps,
    )
    return out.to(attention.dtype)


def p_laplacian_attention(
    query: Tensor,
    key: Tensor,
    x_query: Tensor,
    x_value: Tensor,
    p: Tensor | float,
    mu: Tensor | float,
    *,
    value: Tensor | None = None,
    mask: Tensor | None = None,
    is_causal: bool = False,
    key_lengths: Tensor | None = None,
    scale: float | None = None,
    residual: Residual = "query",
    self_loops: SelfLoops = "drop",
    homogeneous: bool = False,
    eps: float = 1e-8,
    return_lse: bool = False,
) -> PLaplacianOutput:
    """:func:`p_laplacian` of ``softmax(scale * query key^T + mask)``, whose matrix is never stored.

    Args:
        query: ``[B, H, Lq, e]`` float32, float64, bfloat16 or float16.
        key: ``[B, H, Lk, e]``, same dtype and device as all that follow.
        x_query, x_value, p, mu, residual, self_loops, homogeneous, eps: as in :func:`p_laplacian`.
            ``self_loops="keep"`` is for comparison with the released code: it stores the probabilities.
        value: ``[B, H, Lk, ev]``: also return the ordinary attention context from the same pass.
        mask: broadcastable to ``[B, H, Lq, Lk]``; bool (True: attend) or float, added to the products. No gradient.
        is_causal: query i attends to keys up to ``i + Lk - Lq``: the last query sees every key. For ``Lq = Lk`` this
            is torch's; for others torch aligns the first query with the first key instead.
        key_lengths: integer ``[B]``: only the first ``key_lengths[b]`` keys count.
        scale: default ``e ** -0.5``.
        return_lse: also return the log-sum-exp of the masked products.

    Returns:
        :class:`PLaplacianOutput`: ``out`` ``[B, H, Lq, d]`` and ``context`` ``[B, H, Lq, ev]`` (None without
        ``value``) in the inputs' dtype, ``lse`` ``[B, H, Lq]`` in float32 or float64 (None unless asked for). A fully
        masked row gives ``out = r``, context 0, lse minus infinity, and zero gradients but that of ``r``.

    Differentiable once in query, key, x_query, x_value, value, p and mu, through every result.

    Raises:
        InputError: shapes, dtypes or devices disagree, p, mu or eps is out of range, or ``mask`` requires a gradient.
    """
    tensors = {"query": query, "key": key, "x_query": x_query, "x_value": x_value}
    if value is not None:
        tensors["value"] = value
    query, key, x_query, x_value, *rest = _checked(tensors)
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    _check_shape("key", key, [batch, heads, keys, width])
    _check_shape("x_query", x_query, [batch, heads, queries, x_query.shape[-1]])
    _check_shape("x_value", x_value, [batch, heads, keys, x_query.shape[-1]])
    if rest:
        value = rest[0]
        _check_shape("value", value, [batch, heads, keys, value.shape[-1]])
    _check_options(residual, self_loops, homogeneous, eps, queries, keys)
    wide = accumulation_dtype(query.dtype)
    if mask is not None:
        check_device("mask", mask, "query", query)
        mask = _checked_mask(mask, wide, (batch, heads, queries, keys))
    if key_lengths is not None:
        check_device("key_lengths", key_lengths, "query", query)
        if key_lengths.shape != (batch,) or key_lengths.is_floating_point():
            raise InputError(
                f"key_lengths is {shape_of(key_lengths)} but must be integers [{batch}]: one for each sample."
            )
    if self_loops == "keep":
        probabilities, lse = attention_probabilities(query.to(wide), key.to(wide), mask, is_causal, key_lengths, scale)
        nodes = (x_query.to(wide), x_value.to(wide))
        out = p_laplacian(probabilities, *nodes, p, mu, residual=residual, self_loops="keep", eps=eps)
        context = None if value is None else probabilities @ value.to(wide)
    else:
        p, pull = _power_and_pull(p, mu, query)
        out, _row_sum, lse, context = torch.ops.vlmadapt.p_laplacian_attention(
            query.contiguous(),
            key.contiguous(),
            None if value is None else value.contiguous(),
            x_query.contiguous(),
            x_value.contiguous(),
            p,
            pull,
            mask,
            None if key_lengths is None else key_lengths.to(torch.int64).contiguous(),
            max(width, 1) ** -0.5 if scale is None else float(scale),
            is_causal,
            residual == "query",
            homogeneous,
        )
    return PLaplacianOutput(
        out.to(query.dtype),
        None if value is None or context is None else context.to(query.dtype),
        lse if return_lse else None,
    )


def _checked(tensors: dict[str, Tensor]) -> list[Tensor]:
    """The tensors, all [B, H, rows, columns] of one dtype and device; float32 under autocast."""
    (first_name, first), *_ = tensors.items()
    library.require(first.device)
    if torch.is_autocast_enabled(first.device.type):
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        first = tensors[first_name]
    for name, tensor in tensors.items():
        if tensor.dim() != 4 or tensor.dtype not in FLOATS:
            raise InputError(
                f"{name} must be float32, float64, bfloat16 or float16 [batch, heads, rows, columns] but is "
                f"{shape_of(tensor)}: reshape or cast it."
            )
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise InputError(
                f"{name} is {shape_of(tensor)} on {tensor.device} but {first_name} is {shape_of(first)} on "
                f"{first.device}: give both the same dtype and device."
            )
    return list(tensors.values())


def _check_shape(name: str, tensor: Tensor, shape: list[int]) -> None:
    if list(tensor.shape) != shape:
        raise InputError(f"{name} is {shape_of(tensor)} but must be {shape} to match the other arguments: reshape it.")


def _check_options(residual: str, self_loops: str, homogeneous: bool, eps: float, queries: int, keys: int) -> None:
    if residual not in ("query", "none"):
        raise InputError(f"residual is {residual!r}: choose 'query' or 'none'.")
    if self_loops not in ("drop", "keep"):
        raise InputError(f"self_loops is {self_loops!r}: choose 'drop' or 'keep'.")
    if not eps > 0:
        raise InputError(f"eps is {eps}: pass a number above 0, such as 1e-8.")
    if homogeneous and keys < queries:
        raise InputError(
            f"homogeneous needs the queries among the keys but there are {queries} queries and {keys} keys: "
            "pass at least as many keys."
        )


def _power_and_pull(p: Tensor | float, mu: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
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


def _checked_mask(mask: Tensor, wide: torch.dtype, shape: tuple[int, int, int, int]) -> Tensor:
    """Expanded to ``shape`` without a copy; bool, or the accumulation type."""
    if mask.requires_grad:
        raise InputError("mask requires a gradient but is not differentiable here: pass mask.detach().")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise InputError(f"mask is {shape_of(mask)}: pass bool (True: attend) or float (added to the products).")
    try:
        return (mask if mask.dtype == torch.bool else mask.to(wide)).expand(shape)
    except RuntimeError as error:
        raise InputError(f"mask is {shape_of(mask)} but must broadcast to {list(shape)}: reshape it.") from error
