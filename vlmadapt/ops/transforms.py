"""The compiled operators under ``torch.func``: ``grad``, ``vmap``, ``jacrev`` and what is made of them.

What :func:`torch.library.register_autograd` makes of an operator refuses these, so the same gradients are put into an
``autograd.Function`` whose context is set up apart, which is taken within a transform and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from vlmadapt.errors import InputError

Backward = Callable[..., Any]
Setup = Callable[..., None]


class Gradient(NamedTuple):
    """What ``register_autograd`` is given: the backward, and what is kept for it."""

    backward: Backward
    setup: Setup | None


GRADIENTS: dict[str, Gradient] = {}


def register_gradient(operator: str, backward: Backward, setup_context: Setup | None = None) -> None:
    """``torch.library.register_autograd`` of ``vlmadapt::operator``, and the same for transforms."""
    torch.library.register_autograd(f"vlmadapt::{operator}", backward, setup_context=setup_context)
    GRADIENTS[operator] = Gradient(backward, setup_context)


def call(operator: str, *args: Any) -> Any:
    """``torch.ops.vlmadapt.<operator>(*args)``, also within ``torch.func``."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return getattr(torch.ops.vlmadapt, operator)(*args)
    leaves, spec = tree_flatten(args)
    return _function(operator).apply(spec, *leaves)


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether a gradient of one of ``tensors`` may be asked for; within a transform they do not always say so."""
    if not torch.is_grad_enabled():
        return False
    within = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    return within or any(tensor is not None and tensor.requires_grad for tensor in tensors)


@cache
def _function(operator: str) -> type[torch.autograd.Function]:
    gradient = GRADIENTS[operator]

    class Transformed(torch.autograd.Function):
        """Takes the structure of the arguments, then the tensors and values that they hold."""

        @staticmethod
        def forward(spec: TreeSpec, *leaves: Any) -> Any:
            results = getattr(torch.ops.vlmadapt, operator)(*tree_unflatten(leaves, spec))
            return tuple(results) if isinstance(results, list) else results

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            spec, *leaves = inputs
            ctx.spec = spec
            if gradient.setup is not None:
                gradient.setup(ctx=ctx, inputs=tree_unflatten(leaves, spec), output=output)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            _, *leaves = ctx.needs_input_grad
            needs = tree_unflatten(leaves, ctx.spec)
            context = _Context(ctx, needs)
            found = gradient.backward(context, *grads)
            return None, *(
                grad
                for wanted, given in zip(needs, found, strict=True)
                for grad in ([None] * len(tree_leaves(wanted)) if given is None else tree_leaves(given))
            )

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *operands: Any) -> Any:
            if info.batch_size == 0:
                raise InputError(f"vmap maps {operator} over nothing: give a batch of at least 1.")
            calls = [
                Transformed.apply(*(x if d is None else x.select(d, i) for x, d in zip(operands, in_dims, strict=True)))
                for i in range(info.batch_size)
            ]
            if isinstance(calls[0], Tensor):
                return torch.stack(calls), 0
            return tuple(torch.stack(parts) for parts in zip(*calls, strict=True)), (0,) * len(calls[0])

    Transformed.__name__ = f"Transformed_{operator}"
    return Transformed


class _Context:
    """A context whose ``needs_input_grad`` is as nested as the operator's arguments."""

    def __init__(self, ctx: Any, needs: Any) -> None:
        self._ctx, self.needs_input_grad = ctx, needs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)
