"""Configuration of HeGraphAdapter."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlmadapt.adapters.hegraph.graph import DEGREES, DIAGONALS, FORMS, GraphForm
from vlmadapt.adapters.reweight import CacheConfig
from vlmadapt.config import check_choice, check_grid
from vlmadapt.training import TrainConfig, check_range

ACTIVATIONS = ("tanh", "relu", "none")
FUSIONS = ("search", "probability", "logit")


@dataclass(frozen=True, kw_only=True)
class HeGraphAdapterConfig(TrainConfig, CacheConfig):
    positive_to_negative: float = field(default=0.5, metadata={"help": "coefficient of the message m_pn"})
    visual_to_negative: float = field(default=0.5, metadata={"help": "coefficient of the message m_vn"})
    positive_to_positive: float = field(default=0.06, metadata={"help": "coefficient of the message m_pp"})
    visual_to_positive: float = field(default=0.24, metadata={"help": "coefficient of the message m_vp"})
    negative_to_positive: float = field(default=0.2, metadata={"help": "coefficient of the message m_np in training"})
    negative_to_positive_test: float = field(
        default=0.1, metadata={"help": "coefficient of the message m_np after training, without validation samples"}
    )
    visual_bias: float = field(default=0.5, metadata={"help": "factor g of the class bias on cached image features"})
    visual_loss: float = field(default=0.1, metadata={"help": "weight lambda of the visual classifier's loss"})
    visual_scale: float | None = field(
        default=None, metadata={"help": "temperature tau_v of the visual classifier; none for the encoder's tau"}
    )
    beta: float = field(default=1.0, metadata={"help": "sharpness of the visual classifier without validation samples"})
    fusion: str = field(
        default="search",
        metadata={"help": "'probability' (weight w), 'logit' (weight alpha), or 'search': the better on validation"},
    )
    w: float = field(default=0.1, metadata={"help": "weight of the visual probabilities without validation samples"})
    alpha: float = field(default=1.0, metadata={"help": "weight of the visual scores without validation samples"})
    graph: str = field(
        default="auto",
        metadata={
            "help": "relations held 'dense', 'factorised' (exact, no C x C), 'sparse' (top_k), 'none' (no edge), "
            "or 'auto': dense up to 1024 classes, else factorised"
        },
    )
    top_k: int = field(default=64, metadata={"help": "strongest relations kept for each node when graph is 'sparse'"})
    degree: str = field(
        default="source", metadata={"help": "degree of a source node: its own ('source') or that of row j ('target')"}
    )
    diagonal: str = field(
        default="signed", metadata={"help": "'signed' negates a class's relation to its own negative; 'plain' does not"}
    )
    activation: str = field(default="tanh", metadata={"help": "of messages: 'tanh', 'relu' or 'none'"})
    leave_one_out: bool = field(
        default=True, metadata={"help": "hide a training sample's own cache entry from its scores while training"}
    )
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate of AdamW"})
    visual_lr: float = field(default=1e-4, metadata={"help": "peak learning rate of W_v"})
    adam_eps: float = field(default=1e-4, metadata={"help": "AdamW's epsilon"})
    search_beta: tuple[float, float, int] = field(
        default=(1.0, 32.0, 11), metadata={"help": "betas searched on validation: low, high, steps in equal ratios"}
    )
    search_alpha: tuple[float, float, int] = field(
        default=(0.05, 500.0, 25), metadata={"help": "alphas searched on validation: low, high, steps in equal ratios"}
    )
    search_w: tuple[float, float, int] = field(
        default=(0.01, 10.0, 10), metadata={"help": "w's searched on validation: low, high, steps in equal ratios"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "positive_to_negative",
            "visual_to_negative",
            "positive_to_positive",
            "visual_to_positive",
            "negative_to_positive",
            "negative_to_positive_test",
        ):
            check_range(self, name)
        for name in ("visual_bias", "visual_loss", "w", "alpha"):
            check_range(self, name, low=0.0)
        for name in ("beta", "visual_lr"):
            check_range(self, name, low=0.0, low_allowed=False)
        if self.visual_scale is not None:
            check_range(self, "visual_scale", low=0.0, low_allowed=False)
        check_range(self, "top_k", low=1)
        check_choice(self, "fusion", FUSIONS)
        check_choice(self, "graph", FORMS)
        check_choice(self, "degree", DEGREES)
        check_choice(self, "diagonal", DIAGONALS)
        check_choice(self, "activation", ACTIVATIONS)
        for name in ("search_beta", "search_alpha", "search_w"):
            check_grid(self, name)

    @property
    def graph_form(self) -> GraphForm:
        """The graph options as one value."""
        return GraphForm(self.graph, self.top_k, self.degree, self.diagonal)

    @property
    def relations(self) -> tuple[str, ...]:
        """The relations that can change a prediction: those whose message has a coefficient."""
        to_positive = self.negative_to_positive != 0 or self.negative_to_positive_test != 0
        wanted = {
            "pn": to_positive and self.positive_to_negative != 0,
            "vn": to_positive and self.visual_to_negative != 0,
            "np": to_positive,
            "vp": self.visual_to_positive != 0,
            "pp": self.positive_to_positive != 0,
            "vv": self.visual_bias != 0,
        }
        return tuple(name for name, used in wanted.items() if used)
