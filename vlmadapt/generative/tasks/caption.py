"""Captioning: teacher forcing with label smoothing, beam search, CIDEr and BLEU-4."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmadapt.errors import InputError
from vlmadapt.generative.data.records import Record
from vlmadapt.generative.models.text import IGNORED
from vlmadapt.generative.models.view import as_captioner
from vlmadapt.generative.tasks.base import Task, token_losses
from vlmadapt.generative.tasks.caption_metrics import caption_scores, cider_scores


class CaptionTask(Task):
    """Mean token loss of one reference a picture, drawn anew each time; label smoothing as in arXiv 2201.12086."""

    metric = "cider"

    def check(self) -> None:
        """Raise :class:`InputError` for a model that describes nothing, a prompt that is too long for it, or a split of
        one record."""
        as_captioner(self.model).opening(self.options.prompt)
        for split in ("val", "test"):
            if len(self.data.split(split)) < 2:
                raise InputError(
                    f"{self.data.name} has 1 {split} record here: captions need at least 2, since CIDEr compares "
                    f"pictures (see --{split}-limit)."
                )

    def loss_of(self, records: Sequence[Record]) -> Tensor:
        chosen = [record.captions[int(torch.randint(len(record.captions), ()))] for record in records]
        model = as_captioner(self.model)
        targets = model.targets(chosen, self.options.prompt)
        logits = model.caption_logits(self.features(records), targets)
        return token_losses(logits, targets, self.options.label_smoothing).sum() / (targets.labels != IGNORED).sum()

    def predict_batch(self, records: Sequence[Record], beams: int) -> list[str]:
        model = as_captioner(self.model)
        return model.describe(self.features(records), self.options.prompt, beams, self.options.longest)

    def measure(self, records: Sequence[Record], predictions: Sequence[str]) -> dict[str, float]:
        return caption_scores(predictions, [record.captions for record in records])

    @staticmethod
    def scores(records: Sequence[Record], predictions: Sequence[str]) -> list[float]:
        return cider_scores(predictions, [record.captions for record in records])
