"""Visual entailment (arXiv 1901.06706) as answering (ours): the decoder says yes, maybe or no to the hypothesis."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vlmadapt.generative.data.records import Record
from vlmadapt.generative.tasks.base import AnsweringTask
from vlmadapt.generative.tasks.ranking import answer_losses, rank_answers

WORDS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
LABELS = {word: label for label, word in WORDS.items()}


class EntailmentTask(AnsweringTask):
    """Loss: that of the word of the label; prediction: the likeliest of the three words. Needs no new head, so that a
    model trained for VQA is adapted as it is."""

    def loss_of(self, records: Sequence[Record]) -> Tensor:
        model, states, mask = self.read(records)
        return answer_losses(model, states, mask, [WORDS[record.label] for record in records]).mean()

    def predict_batch(self, records: Sequence[Record], beams: int) -> list[str]:
        model, states, mask = self.read(records)
        best = rank_answers(model, states, mask, list(LABELS), len(LABELS))
        return [list(LABELS.values())[index] for index in best.tolist()]

    @staticmethod
    def scores(records: Sequence[Record], predictions: Sequence[str]) -> list[float]:
        return [float(said == record.label) for said, record in zip(predictions, records, strict=True)]
