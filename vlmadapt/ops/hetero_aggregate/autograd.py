"""What torch must know of the compiled operators of hetero_aggregate: shapes of results, and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmadapt.ops import library
from vlmadapt.ops.checks import accumulation_dtype
from vlmadapt.ops.transforms import call, register_gradient

ARGUMENTS = {"transpose_relation": 3, "hetero_aggregate": 10, "hetero_aggregate_backward": 12}

if library.provides(ARGUMENTS):

    @library.register_fake("transpose_relation")
    def _transpose_fake(row_offsets: Tensor, columns: Tensor, num_sources: int) -> tuple[Tensor, Tensor, Tensor]:
        return row_offsets.new_empty(num_sources + 1), torch.empty_like(columns), torch.empty_like(columns)

    @library.register_fake("hetero_aggregate")
    def _forward_fake(sources: list[Tensor], source_of: list[int], row_offsets: list[Tensor], *rest: Any) -> Tensor:
        stacked = rest[3]
        shape = (row_offsets[0].shape[0] - 1, sources[0].shape[1])
        return sources[0].new_empty((len(row_offsets), *shape) if stacked else shape)

    @library.register_fake("hetero_aggregate_backward")
    def _backward_fake(
        grad: Tensor, sources: list[Tensor], source_of: list[int], weights: list[Tensor], *rest: Any
    ) -> list[Tensor]:
        targets, want_sources, want_weights, want_coefficients = rest[3], *rest[5:]
        wide = accumulation_dtype(grad.dtype)
        rows = [len(source) if want else 0 for source, want in zip(sources, want_sources, strict=True)]
        edges = [len(target) if want else 0 for target, want in zip(targets, want_weights, strict=True)]
        grads = [grad.new_empty(count, grad.shape[-1]) for count in rows]
        grads += [grad.new_empty(count, dtype=wide) for count in edges]
        return [*grads, grad.new_empty(len(targets) if want_coefficients else 0, dtype=wide)]

    def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        sources, ctx.source_of, _, _, weights, coefficients, ctx.stacked, offsets, targets, edges = inputs
        if not targets:
            raise RuntimeError("hetero_aggregate needs the transposed relations where a gradient is wanted: pass them.")
        ctx.num_sources, ctx.num_relations = len(sources), len(weights)
        ctx.save_for_backward(*sources, *weights, coefficients, *offsets, *targets, *edges)

    def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)

        def take(count: int) -> list[Tensor]:
            return [next(saved) for _ in range(count)]

        count, relations = ctx.num_sources, ctx.num_relations
        sources, weights, (coefficients,) = take(count), take(relations), take(1)
        transposed = [take(relations) for _ in range(3)]
        want_sources, want_weights, want_coefficients = (ctx.needs_input_grad[argument] for argument in (0, 4, 5))
        grads = call(
            "hetero_aggregate_backward",
            grad.contiguous(),
            sources,
            ctx.source_of,
            weights,
            coefficients,
            ctx.stacked,
            *transposed,
            [int(want) for want in want_sources],
            [int(want) for want in want_weights],
            want_coefficients,
        )
        of_sources = [g if want else None for g, want in zip(grads[:count], want_sources, strict=True)]
        of_weights = [g if want else None for g, want in zip(grads[count:-1], want_weights, strict=True)]
        of_coefficients = grads[-1] if want_coefficients else None
        none: list[Tensor | None] = [None] * relations
        return of_sources, None, none, none, of_weights, of_coefficients, None, none, none, none

    def _twice(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError("hetero_aggregate is differentiable once: compute second derivatives with the reference.")

    register_gradient("hetero_aggregate", _backward, setup_context=_setup_context)
    register_gradient("hetero_aggregate_backward", _twice)
