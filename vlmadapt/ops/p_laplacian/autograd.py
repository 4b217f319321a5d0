"""What torch must know of the compiled p-Laplacian operators: shapes of results, and gradients.

The compiled operators take ``p`` and ``pull = 2 mu / p`` as [H] vectors and return ``out`` and ``row_sum`` in the
accumulation type; :func:`vlmadapt.ops.p_laplacian` is what users call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmadapt.ops import library
from vlmadapt.ops.checks import accumulation_dtype
from vlmadapt.ops.transforms import call, register_gradient


def _results(x_query: Tensor) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(x_query.dtype)
    return x_query.new_empty(x_query.shape, dtype=dtype), x_query.new_empty(x_query.shape[:3], dtype=dtype)


def _as_inputs(grads: tuple[Tensor | None, ...], inputs: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Gradients in the dtypes of their inputs; an empty one was not wanted."""
    return [
        None if grad is None or value is None or grad.shape != value.shape else grad.to(value.dtype)
        for grad, value in zip(grads, inputs, strict=True)
    ]


def _contiguous(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else grad.contiguous()


ARGUMENTS = {
    "p_laplacian": 9,
    "p_laplacian_backward": 14,
    "p_laplacian_attention": 13,
    "p_laplacian_attention_backward": 24,
}

if library.provides(ARGUMENTS):

    @library.register_fake("p_laplacian")
    def _forward_fake(attention: Tensor, x_query: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
        return _results(x_query)

    @library.register_fake("p_laplacian_backward")
    def _backward_fake(
        grad_out: Tensor, attention: Tensor, x_query: Tensor, x_value: Tensor, p: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        want_attention = rest[-2]
        wide = grad_out.dtype
        grads = [x_query.new_empty(t.shape, dtype=wide) for t in (x_query, x_value, p, p)]
        return x_query.new_empty(attention.shape if want_attention else (0,), dtype=wide), *grads

    @library.register_fake("p_laplacian_attention")
    def _attention_fake(
        query: Tensor, key: Tensor, value: Tensor | None, x_query: Tensor, *_rest: Any
    ) -> tuple[Tensor, ...]:
        out, row_sum = _results(x_query)
        shape = (0,) if value is None else (*x_query.shape[:3], value.shape[-1])
        return out, row_sum, torch.empty_like(row_sum), row_sum.new_empty(shape)

    @library.register_fake("p_laplacian_attention_backward")
    def _attention_backward_fake(
        grad_out: Tensor,
        grad_context: Tensor | None,
        grad_lse: Tensor | None,
        query: Tensor,
        key: Tensor,
        value: Tensor | None,
        x_query: Tensor,
        x_value: Tensor,
        p: Tensor,
        *rest: Any,
    ) -> tuple[Tensor, ...]:
        want_query, want_key, want_value, _want_p = rest[-4:]
        want_value = want_value and grad_context is not None
        wanted = [(query, want_query), (key, want_key), (value, want_value)]
        wanted += [(tensor, True) for tensor in (x_query, x_value, p, p)]
        return tuple(
            grad_out.new_empty(tensor.shape if want and tensor is not None else (0,)) for tensor, want in wanted
        )

    def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        tensors = [value for value in inputs if value is None or isinstance(value, Tensor)]
        ctx.options = inputs[len(tensors) :]
        ctx.save_for_backward(*tensors, *output)
        ctx.set_materialize_grads(False)

    def _backward(ctx: Any, grad_out: Tensor | None, _grad_row_sum: Tensor | None) -> tuple[Tensor | None, ...]:
        attention, x_query, x_value, p, pull, out, row_sum = ctx.saved_tensors
        if grad_out is None:
            return (None,) * 9
        needs = ctx.needs_input_grad
        grads = call(
            "p_laplacian_backward",
            grad_out.contiguous(),
            attention,
            x_query,
            x_value,
            p,
            pull,
            out,
            row_sum,
            *ctx.options,
            needs[0],
            needs[3],
        )
        return (*_as_inputs(grads, (attention, x_query, x_value, p, pull)), *(None,) * 4)

    def _attention_backward(
        ctx: Any,
        grad_out: Tensor | None,
        _grad_row_sum: Tensor | None,
        grad_lse: Tensor | None,
        grad_context: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        *inputs, out, row_sum, lse, context = ctx.saved_tensors
        query, key, value, x_query, x_value, p, pull, _mask, _key_lengths = inputs
        if grad_out is None:  # only the context or the log-sum-exp is used
            grad_out = torch.zeros_like(out)
        needs = ctx.needs_input_grad
        grads = call(
            "p_laplacian_attention_backward",
            grad_out.contiguous(),
            None if value is None else _contiguous(grad_context),
            _contiguous(grad_lse),
            *inputs,
            out,
            row_sum,
            lse,
            context,
            *ctx.options,
            needs[0],
            needs[1],
            needs[2],
            needs[5],
        )
        return (*_as_inputs(grads, (query, key, value, x_query, x_value, p, pull)), *(None,) * 6)

    def _twice(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError("p_laplacian is differentiable once: compute second derivatives with the reference.")

    register_gradient("p_laplacian", _backward, setup_context=_save)
    register_gradient("p_laplacian_attention", _attention_backward, setup_context=_save)
    register_gradient("p_laplacian_backward", _twice)
    register_gradient("p_laplacian_attention_backward", _twice)
