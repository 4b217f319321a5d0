"""CLIP-LoRA: low-rank updates of query, key and value in each layer of both towers; arXiv 2405.18541.

    map_l(x) = W_l x + alpha / sqrt(r) * U_l V_l dropout(x)      V_l [r, E] random, U_l [E, r] zero at the start
    logits   = tau * normalize(image_tower(picture)) @ normalize(text_tower(template with the class name))^T

Both towers are adapted where ``fit`` is given pictures and the image tower has attention that is known here, else the
text tower alone. In training a picture is one random view of itself, another in every step. Rank 2, alpha 1, dropout
.25, learning rate 2e-4 with a cosine and 500 x shots steps of 32 samples are the paper's, for all data, and that
nothing is chosen on validation samples; the root of the rank, one template (the data set's first) and the unclipped
gradient are the released code's. A cosine that ends at 0 (1e-6 there) and the views (the encoder's own) are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.base import Encoder
from vlmadapt.adapters.checks import normalize
from vlmadapt.adapters.images import encode_pictures
from vlmadapt.adapters.lora.tower import LowRankTower
from vlmadapt.adapters.lora.towers import Towers, random_views, shows_images, with_image_updates
from vlmadapt.adapters.trained import TrainedClassifier
from vlmadapt.config import AdapterConfig, check_choice
from vlmadapt.errors import InputError
from vlmadapt.training import Samples, TrainConfig, check_range

MOST_RANK = 1024
TOWERS = ("both", "text", "image")
UPDATES = ("down", "up", "image_down", "image_up")
PICTURES = "give pictures (to fit, a list of paths or PIL images), or set towers=text"


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
    towers: str | None = field(
        default=None,
        metadata={
            "help": "both, text or image: what is adapted; none for both where fit has pictures and an image tower "
            "with attention, else text",
            "later": True,
        },
    )
    template: str = field(
        default="a photo of a {}.", metadata={"help": "the prompt; a data set's first one unless it is set"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "steps_per_shot", low=1)
        check_range(self, "rank", low=1, high=MOST_RANK)
        check_range(self, "alpha", low=0.0, low_allowed=False)
        check_range(self, "dropout", low=0.0, high=0.95)
        if self.towers is not None:
            check_choice(self, "towers", TOWERS)
        _check_template(self.template)


def _check_template(value: object) -> None:
    if not isinstance(value, str) or "{}" not in value:
        raise InputError(f"CLIPLoRAConfig.template is {value!r}: give a text with {{}} where the class name goes.")


class CLIPLoRA(TrainedClassifier):
    """``text_features`` are not used: the classifier is the text features of the adapted tower, kept after ``fit``.

    ``fit`` needs ``encoder`` with ``text_module``, ``token_inputs`` and ``encode_tokens``, which it does not change,
    and the real ``class_names``; given pictures, it adapts ``image_module`` too (``towers``). Predictions of a fitted
    or loaded adapter need none of it, where the text tower alone was adapted. Else they are of pictures, or of
    features that :meth:`encoder_for` has made of them.

    Keeps the updates ``down [L, r, E]`` and ``up [L, E, r]`` of the L maps of the text tower (query, key and value of
    the first layer, then of the next), and ``image_down`` and ``image_up`` of the image tower; None of one that stays
    as it is.
    """

    name = "clip-lora"
    config_class = CLIPLoRAConfig
    needs_encoder = True
    transfers = True
    image_down: Tensor | None
    image_up: Tensor | None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name in UPDATES:
            self.register_parameter(name, None)
        self.__dict__["_towers"] = None  # with which it trains, no part of the state
        self.__dict__["_adapted"] = None  # the encoder it was fitted with, and that with the updates of its image tower

    @property
    def wants_pictures(self) -> bool:
        return self.config.towers != "text" and (self.config.towers is not None or shows_images(self.encoder))

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        text, images = self._what_to_adapt(support, validation)
        self.__dict__["_adapted"] = None
        self._attach(text, images)
        generator = torch.Generator().manual_seed(options.seed)
        towers: Towers = self.__dict__["_towers"]
        self.down, self.up = self._start(towers.text, generator)
        self.image_down, self.image_up = self._start(towers.image, generator)
        self._train(support, None, options)  # nothing is chosen: the paper's settings are the same for all data
        self._keep_classifier()

    def _what_to_adapt(self, support: Samples, validation: Samples | None) -> tuple[bool, bool]:
        """Whether the text tower, and whether the image tower. Raises :class:`InputError` without pictures for it."""
        towers = self.config.towers
        images = towers in ("both", "image") or (towers is None and shows_images(self.encoder))
        if towers is None and support.pictures is None:
            images = False
        if images:
            for name, samples in (("features", support), ("val_features", validation)):
                if samples is not None and samples.pictures is None:
                    raise InputError(f"{name} holds features, which no image tower learns from: {PICTURES}.")
        return towers != "image", images

    def _start(
        self, tower: LowRankTower | None, generator: torch.Generator
    ) -> tuple[nn.Parameter | None, nn.Parameter | None]:
        """Updates that change nothing yet."""
        if tower is None:
            return None, None
        start = torch.empty(tower.maps, self.config.rank, tower.width, dtype=torch.float64)
        start.uniform_(-1, 1, generator=generator).div_(math.sqrt(tower.width))
        start = start.to(tower.device, tower.dtype)
        return nn.Parameter(start), nn.Parameter(torch.zeros_like(start.mT))

    def _attach(self, text: bool, images: bool) -> None:
        config = self.config
        texts = [config.template.replace("{}", name) for name in self.class_names]
        towers = Towers(self.encoder, texts, config.rank, config.alpha, config.dropout, text, images)
        self.__dict__["_towers"] = towers

    @torch.no_grad()
    def _keep_classifier(self) -> None:
        self.eval()
        self.classifier = self.adapted_text()
        self.__dict__["_towers"] = None

    def _learned(self) -> dict[str, Tensor]:
        return {name: tensor for name in UPDATES if (tensor := getattr(self, name)) is not None}

    def _take_over(self) -> None:
        self._attach(text=self.down is not None, images=False)
        self._keep_classifier()

    @property
    def adapts_images(self) -> bool:
        return self.image_down is not None

    @torch.no_grad()
    def encoder_for(self, encoder: Encoder) -> Encoder:
        """A copy of ``encoder`` with the updates of the image tower and a fingerprint of its own; ``encoder`` itself
        where that tower is as it was."""
        if self.image_down is None or self.image_up is None or encoder is None:
            return encoder
        known: tuple[Encoder, Encoder] | None = self.__dict__["_adapted"]
        if known is None or known[0] is not encoder:
            known = encoder, with_image_updates(encoder, self.image_down, self.image_up, self.config.alpha)
            self.__dict__["_adapted"] = known
        return known[1]

    def _judged(self, name: str, samples: Samples) -> Tensor:
        if self.image_down is None:
            return samples.features
        assert samples.pictures is not None
        pictures = list(samples.pictures)
        return normalize(encode_pictures(name, pictures, self.encoder_for(self.encoder)).to(self.text_features))

    def _schedule(self, support: Samples) -> TrainConfig:
        """As many epochs as make the configured steps."""
        steps = self.config.steps_per_shot * len(support) / self.num_classes
        epochs = round(steps / math.ceil(len(support) / self.config.batch_size))
        return replace(self.config, epochs=min(self.config.epochs, max(epochs, 1)))

    def _loss(self, support: Samples, indices: Tensor) -> Tensor:
        towers: Towers = self.__dict__["_towers"]
        if towers.image is None:
            return super()._loss(support, indices)
        assert support.pictures is not None and self.image_down is not None and self.image_up is not None
        towers.image.use(self.image_down, self.image_up, self.training)
        views = random_views(towers.encoder, [support.pictures[index] for index in indices.tolist()])
        images = normalize(towers.encoder.encode_images(views).to(self.text_features))
        logits = self.logit_scale * images @ self.adapted_text().T
        return torch.nn.functional.cross_entropy(logits, support.labels[indices])

    def adapted_text(self) -> Tensor:
        """Normalised class text features ``[C, D]`` of the adapted tower, in the adapter's dtype; differentiable in
        ``down`` and ``up``."""
        towers: Towers = self.__dict__["_towers"]
        return normalize(towers.class_features(self.down, self.up, self.training).to(self.text_features))

    def _more_inputs(self) -> dict[str, Tensor]:
        towers: Towers = self.__dict__["_towers"]
        return {"prompt_embeddings": towers.prompts.embeddings, "prompt_tokens": towers.prompts.tokens}
