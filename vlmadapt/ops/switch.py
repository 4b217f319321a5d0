"""The switch between the compiled operators and their plain PyTorch forms."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_entered = 0
_active = False  # a plain global: torch.compile guards on it, as it does not on a contextvar


@contextmanager
def use_reference() -> Iterator[None]:
    """Within the context every function of :mod:`vlmadapt.ops` computes in plain PyTorch.

    Arguments, their checks, results, dtypes and gradients are those of the compiled operators; rounding, speed and
    memory are not: ``[B, n]``, ``[B, H, Lq, Lk, d]``, ``[E, D]`` and ``[n_t, n_s]`` tensors are stored, and most
    results can be differentiated twice. Neither the compiled library nor one of its devices is needed.

    The switch is the whole process's, so that it reaches the threads a caller starts: it is off again when the last
    context that any thread entered is left. A gradient follows its forward, wherever ``backward`` is called. Enter it
    outside of what ``torch.compile`` compiles: a compiled function is compiled again for the other form when it is
    next called.
    """
    global _entered, _active
    with _lock:
        _entered += 1
        _active = True
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            _active = _entered > 0


def reference_in_use() -> bool:
    """Whether some thread is within :func:`use_reference`."""
    return _active
