"""What torch must know of the compiled column sums: shapes of results, and gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vlmadapt.ops import library
from vlmadapt.ops.checks import accumulation_dtype
from vlmadapt.ops.transforms import call, register_gradient

ARGUMENTS = {"attention_column_sums": 6, "attention_column_sums_backward": 10}

if library.provides(ARGUMENTS):

    @library.register_fake("attention_column_sums")
    def _forward_fake(query: Tensor, key: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
        dtype = accumulation_dtype(query.dtype)
        return query.new_empty(key.shape[:3], dtype=dtype), query.new_empty(query.shape[:3], dtype=dtype)

    @library.register_fake("attention_column_sums_backward")
    def _backward_fake(grad_sums: Tensor, query: Tensor, key: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        wanted = zip((query, key), rest[-2:], strict=True)
        return tuple(grad_sums.new_empty(tensor.shape if want else (0,)) for tensor, want in wanted)

    def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, scale, is_causal = inputs
        ctx.options = scale, is_causal
        ctx.save_for_backward(*tensors, output[1])
        ctx.set_materialize_grads(False)

    def _backward(ctx: Any, grad_sums: Tensor | None, _grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        query, key, mask, key_lengths, lse = ctx.saved_tensors
        if grad_sums is None:
            return (None,) * 6
        needs = ctx.needs_input_grad[:2]
        grads = call(
            "attention_column_sums_backward",
            grad_sums.contiguous(),
            query,
            key,
            mask,
            key_lengths,
            lse,
            *ctx.options,
            *needs,
        )
        return *(grad.to(query.dtype) if need else None for grad, need in zip(grads, needs, strict=True)), *(None,) * 4

    def _twice(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            "attention_column_sums is differentiable once: compute second derivatives with the reference."
        )

    register_gradient("attention_column_sums", _backward, setup_context=_save)
    register_gradient("attention_column_sums_backward", _twice)
