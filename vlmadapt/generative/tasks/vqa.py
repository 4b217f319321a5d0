"""Visual question answering: weighted answers in training, ranking or generation after it, the official accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from vlmadapt.generative.data.records import Record
from vlmadapt.generative.tasks.answers import answer_accuracy
from vlmadapt.generative.tasks.base import AnsweringTask
from vlmadapt.generative.tasks.ranking import answer_losses, rank_answers


class VQATask(AnsweringTask):
    """Loss: for each question the likelihood losses of its answers, weighted by the share of people who gave them
    (arXiv 2201.12086, code). Candidates of the ranking are the most frequent answers of the training split."""

    def loss_of(self, records: Sequence[Record]) -> Tensor:
        model, states, mask = self.read(records)
        rows, texts, weights = [], [], []
        for row, record in enumerate(records):
            people = sum(count for _, count in record.answers)
            for answer, count in record.answers:
                rows.append(row)
                texts.append(answer)
                weights.append(count / people)
        if len(rows) > len(records):
            index = torch.tensor(rows, device=states.device)
            states, mask = states[index], mask[index]
        losses = answer_losses(model, states, mask, texts)
        return (losses * torch.tensor(weights, device=losses.device)).sum() / len(records)

    def predict_batch(self, records: Sequence[Record], beams: int) -> list[str]:
        model, states, mask = self.read(records)
        if self.options.answering == "generate":
            return model.reply(states, mask, beams, self.options.longest)
        candidates = self.candidates
        best = rank_answers(model, states, mask, candidates, self.options.ranked)
        return [candidates[index] for index in best.tolist()]

    @property
    def candidates(self) -> list[str]:
        """The most frequent answers of the training records, the most frequent first; equal ones by the alphabet."""
        counted: Counter[str] = Counter()
        for record in self.data.train:
            counted.update(dict(record.answers))
        ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        return [answer for answer, _ in ordered[: self.options.candidates]]

    @staticmethod
    def scores(records: Sequence[Record], predictions: Sequence[str]) -> list[float]:
        return [answer_accuracy(said, record.answers) for said, record in zip(predictions, records, strict=True)]
