"""CoOp: the words around the class name are learned as vectors in the text tower's token space; arXiv 2109.01134.

    prompt_c = [v_1] ... [v_M] [class name] .      v [M, E] shared by all classes, or [C, M, E] of each class its own
    logits   = tau * f @ normalize(text_tower(prompt_c))^T

The released settings are M = 16 and v drawn from a normal distribution of deviation 0.02. Only v is trained, through
the frozen text tower; images stay features. Training with AdamW and keeping the best epoch on validation are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlmadapt.adapters.all_labelled import FitOptions
from vlmadapt.adapters.checks import normalize
from vlmadapt.adapters.prompted import Tokens, encode_prompts
from vlmadapt.adapters.trained import TrainedClassifier
from vlmadapt.config import AdapterConfig
from vlmadapt.errors import InputError
from vlmadapt.training import Samples, TrainConfig, check_range

PLACEHOLDER = "x"
# Tokens before the context, and placeholders among them: a start token; none (SigLIP); the first word, where a
# tokenizer spells it otherwise than those behind a blank (SigLIP 2).
LAYOUTS = ((1, 0), (0, 0), (1, 1))
MOST_CONTEXT = 1024  # tokens: no text tower has room for more


@dataclass(frozen=True, kw_only=True)
class CoOpConfig(TrainConfig, AdapterConfig):
    lr: float = field(default=1e-2, metadata={"help": "peak learning rate of AdamW"})
    weight_decay: float = field(default=0.0, metadata={"help": "decoupled weight decay of AdamW"})
    context_tokens: int = field(default=16, metadata={"help": "learned vectors M before the class name"})
    per_class: bool = field(default=False, metadata={"help": "a context of its own for each class"})
    deviation: float = field(default=0.02, metadata={"help": "standard deviation of the random start"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "context_tokens", low=1, high=MOST_CONTEXT)
        check_range(self, "deviation", low=0.0, low_allowed=False)


class CoOp(TrainedClassifier):
    """``text_features`` are not used: the classifier is the text features of the learned prompts, kept after ``fit``.

    ``fit`` needs ``encoder`` with a differentiable text tower (``token_inputs`` and ``encode_tokens``) and the real
    ``class_names``; predictions of a fitted or loaded adapter need neither. Classes without samples share the learned
    context.
    """

    name = "coop"
    config_class = CoOpConfig
    needs_encoder = True
    transfers = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.register_parameter("context", None)
        self.__dict__["_prompts"] = None  # the encoder's tokens, no part of the state
        self.__dict__["_before"] = 1  # of them, those in front of the context

    def _fit(self, support: Samples, validation: Samples | None, options: FitOptions) -> None:
        prompts = self._tokenized()
        self.__dict__["_prompts"] = prompts
        count, width = self.config.context_tokens, prompts.embeddings.shape[-1]
        drawn = torch.empty(count, width, dtype=torch.float64)
        drawn.normal_(std=self.config.deviation, generator=torch.Generator().manual_seed(options.seed))
        start = drawn.to(prompts.embeddings)
        # Renumbering the classes must not change what a class starts from.
        start = start.expand(self.num_classes, -1, -1).clone() if self.config.per_class else start
        self.context = nn.Parameter(start)
        self._train(support, validation, options)
        self._keep_classifier()

    def _keep_classifier(self) -> None:
        self.classifier = self.adapted_text().detach()
        self.__dict__["_prompts"] = None

    @property
    def can_transfer(self) -> bool:
        """Where the context is shared by all classes."""
        return not self.config.per_class

    def _learned(self) -> dict[str, Tensor]:
        return {"context": self.context}

    def _take_over(self) -> None:
        self.__dict__["_prompts"] = self._tokenized()
        self._keep_classifier()

    def _tokenized(self) -> Tokens:
        """Prompts with placeholders where the context goes; checked to be one token each, after ``_before`` others."""
        encode = getattr(self.encoder, "token_inputs", None)
        if encode is None:
            raise InputError(
                "coop trains through the text tower: pass encoder=, one with token_inputs, such as the embedded "
                "backbone or open_clip's."
            )
        count = self.config.context_tokens
        for before, more in LAYOUTS:
            front = [PLACEHOLDER] * (count + more)
            prompts: Tokens = encode([" ".join([*front, f"{name}."]) for name in self.class_names])
            places = prompts.tokens[:, before : before + count]
            rest = prompts.mask[:, before + count :].sum(1)
            if places.shape[1] == count and bool((places == places[0, 0]).all()) and int(rest.min()) >= 1:
                self.__dict__["_before"] = before
                return prompts
        raise InputError(
            f"context_tokens is {count}, which the tokenizer of this encoder has no room for before the class name: "
            "use fewer."
        )

    def adapted_text(self) -> Tensor:
        """Normalised text features of the prompts ``[C, D]`` in the adapter's dtype; differentiable in ``context``."""
        prompts: Tokens = self.__dict__["_prompts"]
        count = self.config.context_tokens
        context = self.context.expand(self.num_classes, -1, -1)
        # The embeddings may be of a token table that is not to be trained: no gradient goes there.
        embeddings = prompts.embeddings.detach()
        before: int = self.__dict__["_before"]
        embeddings = torch.cat([embeddings[:, :before], context, embeddings[:, before + count :]], dim=1)
        return normalize(encode_prompts(self.encoder, prompts, embeddings).to(self.text_features))

    def _more_inputs(self) -> dict[str, Tensor]:
        prompts: Tokens = self.__dict__["_prompts"]
        return {"prompt_embeddings": prompts.embeddings, "prompt_tokens": prompts.tokens}
