"""Configuration of XMAdapter."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlmadapt.adapters.reweight import CacheConfig
from vlmadapt.config import MOST_WIDTH, check_choice, check_grid, check_not_both
from vlmadapt.training import TrainConfig, check_range

FUSIONS = ("learned", "fixed", "per_sample")


@dataclass(frozen=True, kw_only=True)
class XMAdapterConfig(TrainConfig, CacheConfig):
    fusion: str = field(
        default="learned",
        metadata={"help": "gamma: 'learned' (one trained number), 'fixed' (searched on validation), 'per_sample'"},
    )
    gamma: float = field(default=0.7, metadata={"help": "share of the image cache at the start, in (0, 1)"})
    beta_image: float = field(default=5.5, metadata={"help": "sharpness of the image affinity at the start"})
    beta_text: float = field(default=5.5, metadata={"help": "sharpness of the text affinity at the start"})
    alpha: float = field(default=1.0, metadata={"help": "weight of the cache scores at the start"})
    hard_mining: bool = field(
        default=True, metadata={"help": "weigh training samples by how much their two affinities disagree"}
    )
    hardness: float = field(
        default=1.0, metadata={"help": "extra weight of the hardest sample of a batch (lambda_h), at least 0"}
    )
    standardize: bool = field(
        default=False,
        metadata={"help": "scale similarities to mean 0, deviation 1 over the cache before the exponential"},
    )
    leave_one_out: bool = field(
        default=True, metadata={"help": "hide a training sample's own cache entry from its scores while training"}
    )
    hidden_width: int | None = field(
        default=None, metadata={"help": "width H of the text keys; none for that of the features"}
    )
    mlp_width: int | None = field(
        default=None, metadata={"help": "hidden width of a small MLP beside the two linear maps; none for linear maps"}
    )
    scalar_lr: float = field(default=1e-2, metadata={"help": "peak learning rate of gamma, the betas and alpha"})
    adam_eps: float = field(default=1e-4, metadata={"help": "AdamW's epsilon"})
    search_beta: tuple[float, float, int] = field(
        default=(0.5, 32.0, 13), metadata={"help": "betas searched on validation: low, high, steps in equal ratios"}
    )
    search_alpha: tuple[float, float, int] = field(
        default=(0.05, 500.0, 41), metadata={"help": "alphas searched on validation: low, high, steps in equal ratios"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "fusion", FUSIONS)
        check_range(self, "gamma", low=0.01, high=0.99)
        for name in ("beta_image", "beta_text", "alpha", "scalar_lr"):
            check_range(self, name, low=0.0, low_allowed=False)
        check_range(self, "hardness", low=0.0)
        for name in ("hidden_width", "mlp_width"):
            if getattr(self, name) is not None:
                check_range(self, name, low=1, high=MOST_WIDTH)
        check_grid(self, "search_beta")
        check_grid(self, "search_alpha")
        check_not_both(self, "reweight", "standardize")
        check_not_both(self, "each_view", "standardize")
