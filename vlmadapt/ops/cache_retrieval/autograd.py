"""What torch must know of the compiled cache-retrieval operators: shapes of results, and gradients.

The compiled operators take ``scale``, ``center`` and ``ratio`` as [B] vectors or, where those are None, ``beta``, 1 and
``share``; :func:`vlmadapt.ops.cache_retrieval` is what users call. With ``store_similarities`` the forward on the CPU
also returns the similarities [S, n, B], transposed, of the S streams that have one key an entry; the backward then need
not compute them again. Otherwise, and on CUDA, S is 0. Of bfloat16, more than a few queries and numbers alone for
``scale``, ``center`` and ``ratio`` these are the affinities, 16 bits each (``Kept`` in the kernel's ``kernel.h``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmadapt.ops import library
from vlmadapt.ops.checks import accumulation_dtype
from vlmadapt.ops.transforms import GRADIENTS, Gradient, call, register_gradient

ARGUMENTS = {
    "class_order": 2,
    "cache_retrieval": 22,
    "cache_retrieval_backward": 17,
    "cache_retrieval_multi_beta": 6,
    "cache_retrieval_grid": 9,
}


MAX_DOT_QUERIES = 4  # csrc/cache_retrieval/kernel.h


def keeps_affinities(queries: Tensor, *of_rows: Tensor | None) -> bool:
    """Whether affinities are what is kept; ``of_rows`` are scales, centers and ratio."""
    numbers = all(tensor is None for tensor in of_rows)
    return numbers and queries.dtype == torch.bfloat16 and queries.shape[0] > MAX_DOT_QUERIES


def gradient_dtype(tensor: Tensor) -> torch.dtype:
    """Of what the compiled operators return as the gradient of a matrix: a CPU's kernels round to its own."""
    return tensor.dtype if tensor.device.type == "cpu" else accumulation_dtype(tensor.dtype)


if library.provides(ARGUMENTS):

    @library.register_fake("class_order")
    def _class_order_fake(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        return torch.empty_like(labels), labels.new_empty(num_classes + 1)

    @library.register_fake("cache_retrieval")
    def _forward_fake(queries: Tensor, keys: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        text_queries, offsets = rest[2], rest[8]
        text_keys_per_class, _mask_own_scores, want_disagreement, store_similarities, _route, _float32 = rest[-6:]
        dtype = kept = accumulation_dtype(queries.dtype)
        scores = queries.new_empty(queries.shape[0], offsets.shape[0] - 1, dtype=dtype)
        matrices = 0
        if store_similarities and queries.device.type == "cpu":
            matrices = 1 if text_queries is None or text_keys_per_class else 2
            kept = torch.int16 if keeps_affinities(queries, *rest[:2], *rest[4:7]) else dtype
        similarities = queries.new_empty(matrices, keys.shape[0], queries.shape[0], dtype=kept)
        return scores, queries.new_empty(queries.shape[0] if want_disagreement else 0, dtype=dtype), similarities

    @library.register_fake("cache_retrieval_backward")
    def _backward_fake(grad_scores: Tensor, queries: Tensor, keys: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        want_queries, want_keys, want_rows, _route, _float32 = rest[-5:]
        rows = [queries.shape[0] if want_queries else 0, keys.shape[0] if want_keys else 0]
        matrices = [queries.new_empty(count, queries.shape[1], dtype=gradient_dtype(queries)) for count in rows]
        return matrices[0], matrices[1], grad_scores.new_empty(3, queries.shape[0] if want_rows else 0)

    @library.register_fake("cache_retrieval_multi_beta")
    def _multi_beta_fake(
        queries: Tensor, keys: Tensor, order: Tensor, offsets: Tensor, betas: Tensor, float32: int
    ) -> Tensor:
        return betas.new_empty(betas.shape[0], queries.shape[0], offsets.shape[0] - 1)

    @library.register_fake("cache_retrieval_grid")
    def _grid_fake(
        queries: Tensor, keys: Tensor, order: Tensor, offsets: Tensor, betas: Tensor, alphas: Tensor, *rest: Any
    ) -> Tensor:
        return betas.new_empty(betas.shape[0], alphas.shape[0], dtype=torch.int64)

    def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.beta, ctx.text_beta, ctx.share, ctx.text_keys_per_class, ctx.mask_own_scores = inputs[:-4]
        ctx.route, ctx.float32 = inputs[-2:]
        _scores, disagreement, similarities = output
        ctx.mark_non_differentiable(disagreement, similarities)
        ctx.set_materialize_grads(False)  # no zeros for what has no gradient
        ctx.save_for_backward(*tensors, similarities)

    def _backward(ctx: Any, grad_scores: Tensor | None, *_nothing: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_scores is None:
            return (None,) * len(ctx.needs_input_grad)
        queries, keys, scale, center, *text, ratio, _order, offsets, labels, own_entry, kept = ctx.saved_tensors
        similarities, text_similarities = [*kept, None, None][:2]
        grad_scores = grad_scores.contiguous()
        own = own_entry if ctx.mask_own_scores else None
        needs = ctx.needs_input_grad
        image = call(
            "cache_retrieval_backward",
            grad_scores,
            queries,
            keys,
            scale,
            center,
            ratio,
            labels,
            None,
            own,
            similarities,
            ctx.beta,
            ctx.share,
            needs[0],
            needs[1],
            needs[2] or needs[3] or needs[8],
            ctx.route,
            ctx.float32,
        )
        grads: list[Tensor | None] = [*_as_inputs(image, queries, needs[:4]), None, None, None, None, None]
        text_queries, text_keys, text_scale, text_center = text
        if text_queries is not None:
            text_labels, counts, text_own = labels, None, own
            if ctx.text_keys_per_class:
                text_labels = torch.arange(len(text_keys), device=labels.device)
                counts = (offsets[1:] - offsets[:-1]).to(grad_scores.dtype)
                # Without entries no query can be one. Own entries of a GPU are not checked: nothing is read beyond.
                if own is not None and len(labels):
                    text_own = torch.where(own < 0, -1, labels[own.clamp(0, len(labels) - 1)])
            result = call(
                "cache_retrieval_backward",
                grad_scores,
                text_queries,
                text_keys,
                text_scale,
                text_center,
                None if ratio is None else 1 - ratio,
                text_labels,
                counts,
                text_own,
                text_similarities,
                ctx.text_beta,
                1 - ctx.share,
                needs[4],
                needs[5],
                needs[6] or needs[7] or needs[8],
                ctx.route,
                ctx.float32,
            )
            grads[4:8] = _as_inputs(result, text_queries, needs[4:8])
            if needs[8]:
                grads[8] = image[2][2] - result[2][2]
        return (*grads, *(None,) * (len(needs) - len(grads)))

    def _as_inputs(result: tuple[Tensor, Tensor, Tensor], like: Tensor, needs: tuple[bool, ...]) -> list[Tensor | None]:
        """Gradients of queries, keys, scale and center, those that are needed, in the dtypes of those inputs."""
        grad_queries, grad_keys, rows = result
        return [
            grad_queries.to(like.dtype) if needs[0] else None,
            grad_keys.to(like.dtype) if needs[1] else None,
            rows[0] if needs[2] else None,
            rows[1] if needs[3] else None,
        ]

    def _twice(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError("cache_retrieval is differentiable once: compute second derivatives with the reference.")

    class _Retrieval(torch.autograd.Function):
        """What ``torch.library.register_autograd`` would make, which looks for default values of 22 arguments in every
        call: 80 us, more than all kernels of a small problem."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
            output = _below_autograd(*inputs)
            _setup_context(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            return _backward(ctx, *grads)

    def _below_autograd(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.vlmadapt.cache_retrieval(*inputs)

    def _with_autograd(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        needs = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        return _Retrieval.apply(*inputs) if needs and torch.is_grad_enabled() else _below_autograd(*inputs)

    _LIBRARY = torch.library.Library("vlmadapt", "IMPL")
    _LIBRARY.impl("cache_retrieval", _with_autograd, "Autograd")
    GRADIENTS["cache_retrieval"] = Gradient(_backward, _setup_context)
    register_gradient("cache_retrieval_backward", _twice)
