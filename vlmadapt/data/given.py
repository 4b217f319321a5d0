"""Features that somebody has extracted, in place of pictures: what a file of them says beside its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize


class Backbone(NamedTuple):
    """The encoder that made the features, as ``vlmadapt features`` notes it."""

    name: str
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Given:
    """The texts of the classes, and how the features came about.

    width: D. text: float32 ``[C, D]``, row c of ``class_names[c]``. negative_text: the same of negative prompts. text,
    negative_text, logit_scale, backbone: None where the file does not say. views, precision: of the training features.
    """

    class_names: tuple[str, ...]
    width: int
    text: Tensor | None = None
    negative_text: Tensor | None = None
    logit_scale: float | None = None
    backbone: Backbone | None = None
    views: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"

    @cached_property
    def negatives(self) -> Tensor | None:
        """``negative_text``, or for each class the mean text of the other classes ``[C, D]``, which is ours."""
        if self.negative_text is not None or self.text is None:
            return self.negative_text
        unit = normalize(self.text, dim=-1)
        return (unit.sum(0) - unit) / (len(unit) - 1)

    def only(self, class_names: Sequence[str]) -> Given:
        """What is said of these classes alone: derived negatives are of them, too."""
        own = None if self.negative_text is None else self.of_classes(self.negative_text, class_names)
        text = None if self.text is None else self.of_classes(self.text, class_names)
        return replace(self, class_names=tuple(class_names), text=text, negative_text=own)

    def of_classes(self, rows: Tensor, class_names: Sequence[str]) -> Tensor:
        """``rows`` (one of the above) in the order of ``class_names``, which are among those of this file."""
        place = {name: row for row, name in enumerate(self.class_names)}
        return rows[torch.tensor([place[name] for name in class_names])]
