"""CLIP-LoRA, its text half: low-rank updates of query, key and value in each layer of the text tower; arXiv 2405.18541.

    map_l(x) = W_l x + alpha / sqrt(r) * U_l V_l dropout(x)      V_l [r, E] random, U_l [E, r] zero at the start
    logits   = tau * f @ normalize(text_tower(template with the class name))^T

The paper adapts both towers. Only the text tower is adapted here, so that pictures stay features that are extracted
once. Rank 2, alpha 1, dropout .25, learning rate 2e-4 with a cosine and 500 x shots steps of 32 samples are the
paper's, for all data, and that nothing is chosen on validation samples; the root of the rank, one template (the data
set's first) and the unclipped gradient are the released code's. A cosine that ends at 0 (1e-6 there) is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.checks import normalize
from vlmadapt.adapters.lora.tower import LowRankTower
from vlmadapt.adapters.prompted import Tokens, encode_prompts
from vlmadapt.adapters.trained import TrainedClassifier
from vlmadapt.config import AdapterConfig
from vlmadapt.errors import InputError
from vlmadapt.training import Samples, TrainConfig, check_range

MOST_RANK = 1024


@dataclass(frozen=True, kw_only=True)
class CLIPLoRAConfig(TrainConfig, AdapterConfig):
    epochs: int = field(
        default=10_000, metadata={"help": "passes over the training samples at most; see steps_per_shot"}
    )
    steps_per_shot: int = field(
        default=500, metadata={"help": "steps for each training sample of a usual class; epochs may end them sooner"}
    )
    batch_size: int = field(default=32, metadata={"help": "samples a step"})
    lr: float = field(default=2e-4, metadata={"help": "peak learning rate of AdamW"})
    warmup_fraction: float = field(
        default=0.0, metadata={"help": "share of all steps with linearly rising learning rate, before the cosine"}
    )
    grad_clip: float | None = field(
        default=None, metadata={"help": "largest L2 norm of the whole gradient; none for no clipping"}
    )
    rank: int = field(default=2, metadata={"help": "rank r of the updates"})
    alpha: float = field(default=1.0, metadata={"help": "factor of the updates, times the root of the rank"})
    dropout: float = field(default=0.25, metadata={"help": "share of an update's inputs that training leaves out"})
    template: str = field(
        default="a photo of a {}.", metadata={"help": "the prompt; a data set's first one unless it is set"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "steps_per_shot", low=1)
        check_range(self, "rank", low=1, high=MOST_RANK)
        check_range(self, "alpha", low=0.0, low_allowed=False)
        check_range(self, "dropout", low=0.0, high=0.95)
        _check_template(self.template)


def _check_template(value: object) -> None:
    if not isinstance(value, str) or "{}" not in value:
        raise InputError(f"CLIPLoRAConfig.template is {value!r}: give a text with {{}} where the class name goes.")


class CLIPLoRA(TrainedClassifier):
    """``text_features`` are not used: the classifier is the text features of the adapted tower, kept after ``fit``.

    ``fit`` needs ``encoder`` with ``text_module``, ``token_inputs`` and ``encode_tokens``, which it does not change,
    and the real ``class_names``; predictions of a fitted or loaded adapter need neither. Keeps the updates
    ``down [L, r, E]`` and ``up [L, E, r]`` of the L maps: query, key and value of the first layer, then of the next.
    """

    name = "clip-lora"
    config_class = CLIPLoRAConfig
    needs_encoder = True
    transfers = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_parameter("down", None)
        self.register_parameter("up", None)
        self.__dict__["_tower"] = None  # with which it trains, no part of the state
        self.__dict__["_prompts"] = None  # of all classes, sorted
        self.__dict__["_places"] = None  # of each class among them

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        tower = self._attach()
        start = torch.empty(tower.maps, self.config.rank, tower.width, dtype=torch.float64)
        start.uniform_(-1, 1, generator=torch.Generator().manual_seed(options.seed)).div_(math.sqrt(tower.width))
        start = start.to(tower.device, tower.dtype)
        self.down, self.up = nn.Parameter(start), nn.Parameter(torch.zeros_like(start.mT))
        self._train(support, None, options)  # nothing is chosen: the paper's settings are the same for all data
        self._keep_classifier()

    def _attach(self) -> LowRankTower:
        config = self.config
        tower = LowRankTower(self.encoder, config.rank, config.alpha, config.dropout)
        texts = [config.template.replace("{}", name) for name in self.class_names]
        # In an order of their own: what dropout leaves out of a class must not depend on its number.
        order = sorted(range(self.num_classes), key=texts.__getitem__)
        self.__dict__["_prompts"] = tower.encoder.token_inputs([texts[number] for number in order])
        self.__dict__["_places"] = torch.tensor(order).argsort()
        self.__dict__["_tower"] = tower
        return tower

    @torch.no_grad()
    def _keep_classifier(self) -> None:
        self.eval()
        self.classifier = self.adapted_text()
        self.__dict__["_tower"] = self.__dict__["_prompts"] = self.__dict__["_places"] = None

    def _learned(self) -> dict[str, Tensor]:
        return {"down": self.down, "up": self.up}

    def _take_over(self) -> None:
        self._attach()
        self._keep_classifier()

    def _schedule(self, support: Samples) -> TrainConfig:
        """As many epochs as make the configured steps."""
        steps = self.config.steps_per_shot * len(support) / self.num_classes
        epochs = round(steps / math.ceil(len(support) / self.config.batch_size))
        return replace(self.config, epochs=min(self.config.epochs, max(epochs, 1)))

    def adapted_text(self) -> Tensor:
        """Normalised class text features ``[C, D]`` of the adapted tower, in the adapter's dtype; differentiable in
        ``down`` and ``up``."""
        tower: LowRankTower = self.__dict__["_tower"]
        prompts: Tokens = self.__dict__["_prompts"]
        tower.use(self.down, self.up, self.training)
        features = encode_prompts(tower.encoder, prompts, prompts.embeddings.detach(), random=self.training)
        places: Tensor = self.__dict__["_places"]
        return normalize(features[places.to(features.device)].to(self.text_features))

    def _more_inputs(self) -> dict[str, Tensor]:
        prompts: Tokens = self.__dict__["_prompts"]
        return {"prompt_embeddings": prompts.embeddings, "prompt_tokens": prompts.tokens}
