"""What methods with trained parameters share: one call of the training loop, scored on validation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.base import Adapter
from vlmadapt.training import ParameterGroup, Samples, TrainConfig, fingerprint_tensors, fit_loop


class TrainedAdapter(Adapter):
    """An adapter whose configuration is also a :class:`~vlmadapt.training.TrainConfig`."""

    def _train(
        self,
        support: Samples,
        validation: Samples | None,
        options: FitOptions,
        groups: Sequence[ParameterGroup] = (),
    ) -> None:
        data = fingerprint_tensors(
            text_features=self.text_features,
            features=support.features,
            labels=support.labels,
            val_features=None if validation is None else validation.features,
            val_labels=None if validation is None else validation.labels,
            **self._more_inputs(),
        )
        self.train_result_ = fit_loop(
            self,
            lambda indices: self._loss(support, indices),
            len(support),
            self._schedule(support),
            evaluate=None if validation is None else lambda: self._score(validation),
            groups=groups,
            seed=options.seed,
            identity={
                "adapter": self.name,
                "settings": self.config.as_dict(),
                "logit_scale": self.logit_scale,
                "sha256": data,
            },
            checkpoint_dir=options.checkpoint_dir,
            label=self.name,
            progress=options.progress,
        )

    def _schedule(self, support: Samples) -> TrainConfig:
        """What the loop is given: the configuration, unless its epochs depend on the samples."""
        return self.config

    def _more_inputs(self) -> dict[str, Tensor]:
        """What else training starts from, by name: a checkpoint of other values is refused."""
        return {}

    def _loss(self, support: Samples, indices: Tensor) -> Tensor:
        logits = self._logits(support.features[indices])
        return torch.nn.functional.cross_entropy(logits, support.labels[indices])


class TrainedClassifier(TrainedAdapter):
    """An adapter that trains class vectors; ``classifier`` holds those that were last scored, or the fitted ones."""

    classifier: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_buffer("classifier", None)

    @abstractmethod
    def adapted_text(self) -> Tensor:
        """Normalised class vectors ``[C, D]`` of the weights as they are; differentiable in them."""

    def _loss(self, support: Samples, indices: Tensor) -> Tensor:
        logits = self.logit_scale * support.features[indices] @ self.adapted_text().T
        return torch.nn.functional.cross_entropy(logits, support.labels[indices])

    @torch.no_grad()
    def _score(self, samples: Samples) -> tuple[float, ...]:
        self.classifier = self.adapted_text()
        return super()._score(samples)

    def _logits(self, features: Tensor) -> Tensor:
        return self.logit_scale * features @ self.classifier.T
