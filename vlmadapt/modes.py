"""Modes of torch that a caller may have set, put back to the usual ones for the length of a call. Ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def usual(grad: bool = False) -> Iterator[None]:
    """New tensors are float32 and on the CPU where code names neither; with ``grad``, gradients are recorded as well.

    ``torch.set_default_dtype``, ``torch.set_default_device``, ``torch.autocast`` and, with ``grad``, ``torch.no_grad``
    and ``torch.inference_mode`` then change nothing inside. Also a decorator: ``@usual()``.
    """
    with ExitStack() as stack:
        default = torch.get_default_dtype()
        if default != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, default)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if grad:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
        yield
