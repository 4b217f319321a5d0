"""Cache retrieval with values in place of classes: what torch must know of the compiled operator, and its call.

``S[b, c] = sum_k exp(scale[b] * (queries[b] . keys[k] - center[b])) * values[k, c]``, the gradient of every factor;
:func:`vlmadapt.ops.cache_retrieval` is what users call. Similarities are kept for the backward as autograd.py says.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vlmadapt.errors import InputError, shape_of
from vlmadapt.ops import library
from vlmadapt.ops.cache_retrieval.autograd import gradient_dtype
from vlmadapt.ops.checks import accumulation_dtype, check_matrix, check_same
from vlmadapt.ops.transforms import call, register_gradient

ARGUMENTS = {"cache_retrieval_dense": 9, "cache_retrieval_dense_backward": 14}


def check_values(values: Tensor, keys: Tensor, num_classes: int | None) -> None:
    """Raise :class:`InputError` unless ``values`` has a row a key, of the keys' dtype and device."""
    check_matrix("values", values)
    check_same("values", values, "keys", keys, width=False)
    if len(values) != len(keys):
        raise InputError(f"values has {len(values)} rows but keys has {len(keys)}: give one row of values a key.")
    if num_classes is not None and num_classes != values.shape[1]:
        raise InputError(
            f"num_classes is {num_classes} but values is {shape_of(values)}: leave it out, a class is a column."
        )


if library.provides(ARGUMENTS):

    @library.register_fake("cache_retrieval_dense")
    def _forward_fake(queries: Tensor, keys: Tensor, values: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        store_similarities, _float32 = rest[-2:]
        dtype = accumulation_dtype(queries.dtype)
        kept = int(store_similarities and queries.device.type == "cpu")
        scores = queries.new_empty(queries.shape[0], values.shape[1], dtype=dtype)
        return scores, queries.new_empty(kept, keys.shape[0], queries.shape[0], dtype=dtype)

    @library.register_fake("cache_retrieval_dense_backward")
    def _backward_fake(grad_scores: Tensor, queries: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        wanted = zip((queries, *rest[:2]), rest[-5:-2], strict=True)
        grads = [x.new_empty(x.shape[0] if wants else 0, x.shape[1], dtype=gradient_dtype(x)) for x, wants in wanted]
        return (*grads, grad_scores.new_empty(3, queries.shape[0] if rest[-2] else 0))

    def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.beta, _store_similarities, ctx.float32 = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # no zeros for what has no gradient
        ctx.save_for_backward(*tensors, output[1])

    def _backward(ctx: Any, grad_scores: Tensor | None, _nothing: None) -> tuple[Tensor | None, ...]:
        if grad_scores is None:
            return (None,) * len(ctx.needs_input_grad)
        queries, keys, values, scale, center, own_entry, kept = ctx.saved_tensors
        needs = ctx.needs_input_grad
        *matrices, rows = call(
            "cache_retrieval_dense_backward",
            grad_scores.contiguous(),
            queries,
            keys,
            values,
            scale,
            center,
            own_entry,
            kept[0] if len(kept) else None,
            ctx.beta,
            *needs[:3],
            needs[3] or needs[4],
            ctx.float32,
        )
        grads = [grad.to(queries.dtype) if wanted else None for grad, wanted in zip(matrices, needs[:3], strict=True)]
        return (*grads, rows[0] if needs[3] else None, rows[1] if needs[4] else None, None, None, None, None)

    def _twice(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError("cache_retrieval is differentiable once: compute second derivatives with the reference.")

    register_gradient("cache_retrieval_dense", _backward, setup_context=_setup_context)
    register_gradient("cache_retrieval_dense_backward", _twice)
