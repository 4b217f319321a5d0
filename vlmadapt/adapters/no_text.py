"""What stands for class text features where there are none: features of a tower that never saw text, or of a file."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vlmadapt.errors import InputError

DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class NoText:
    """``classes`` without text, for features of ``width``; goes where ``text_features [C, D]`` would.

    Without text every class is as likely as any other before the samples are seen: all zero-shot logits are zero.
    ``dtype`` (float32 or float64) and ``device`` are those of all computation, which text features say otherwise.
    Raises :class:`InputError` for fewer than two classes, a width below 1, and another dtype.
    """

    classes: int
    width: int
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        for name, least in (("classes", 2), ("width", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"NoText.{name} is {value!r}: give a whole number of at least {least}.")
        if self.dtype not in DTYPES:
            raise InputError(f"NoText.dtype is {self.dtype!r}: give torch.float32 or torch.float64.")

    @classmethod
    def like(cls, zeros: torch.Tensor) -> NoText:
        """What :meth:`zeros` ``[C, D]`` are of."""
        classes, width = zeros.shape
        return cls(classes, width, zeros.dtype, zeros.device)

    def zeros(self) -> torch.Tensor:
        """``[C, D]``, by which every zero-shot logit is zero."""
        return torch.zeros(self.classes, self.width, dtype=self.dtype, device=self.device)
