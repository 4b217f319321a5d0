"""A model inside what torch puts around it, and names without those wrappers, the same wherever it runs. Ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from vlmadapt.errors import InputError

# Classes that wrap a module, with the name they give it.
WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def adaptable(model: nn.Module) -> nn.Module:
    """What ``model`` wraps, or ``model`` itself: what methods attach to, under names that are those of every copy.

    Raises :class:`InputError` naming a module whose weights are not ordinary floating-point tensors: quantised ones
    cannot be trained, fingerprinted or multiplied with what a method adds.
    """
    model = cast("nn.Module", unwrapped(model))
    for name, module in model.named_modules():
        found = _unusual_weights(module)
        if found is not None:
            raise InputError(
                f"model has {found} in {name} ({type(module).__name__}): load it with weights in float32, float16 or "
                "bfloat16, not quantised or sharded."
            )
    return model


def unwrapped(model: Any) -> Any:
    """What ``model`` wraps, however often; ``model`` itself where it is no wrapper."""
    child = _wrapped(model)
    return model if child is None else unwrapped(getattr(model, child))


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Those of ``model``, named as if nothing in it were wrapped."""
    plain = plain_names(model)
    return ((plain(name), parameter) for name, parameter in model.named_parameters())


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of ``model``, named as if nothing in it were wrapped."""
    plain = plain_names(model)
    return {plain(name): tensor for name, tensor in model.state_dict(keep_vars=True).items()}


def plain_names(model: nn.Module) -> Callable[[str], str]:
    """A function from names within ``model`` to those they had if nothing in it were wrapped."""
    wrapped = ((name, _wrapped(module)) for name, module in model.named_modules())
    dropped = {f"{name}.{child}".lstrip(".") for name, child in wrapped if child is not None}

    def plain(name: str) -> str:
        parts = name.split(".")
        return ".".join(part for end, part in enumerate(parts, 1) if ".".join(parts[:end]) not in dropped)

    return plain


def wrapping(name: str) -> str:
    """What wrappers around the whole model put before ``name``, in files of 0.1.0: ``_orig_mod.module.``."""
    first, _, rest = name.partition(".")
    return f"{first}.{wrapping(rest)}" if first in WRAPPERS.values() else ""


def _wrapped(module: nn.Module) -> str | None:
    """Name of the child that ``module`` wraps; None where it is no wrapper."""
    for kind in type(module).__mro__:
        child = WRAPPERS.get(kind.__name__)
        if child is not None and child in module._modules:
            return child
    return None


def _unusual_weights(module: nn.Module) -> str | None:
    weight = getattr(module, "weight", None)
    if callable(weight) and not isinstance(weight, (Tensor, nn.Module)):  # torch.ao packs them behind a method
        return "packed weights"
    if "qweight" in module._buffers:
        return f"{module._buffers['qweight'].dtype} weights"  # type: ignore[union-attr]
    for parameter in module._parameters.values():
        if parameter is not None and is_traceable_wrapper_subclass(parameter):
            return f"weights of type {type(parameter).__name__}"
        if parameter is not None and parameter.dtype not in FLOATS:
            return f"{parameter.dtype} weights"
    return None
