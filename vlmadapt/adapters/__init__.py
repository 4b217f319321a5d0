"""Few-shot classifiers behind one interface: ``create_adapter(name, text_features, logit_scale).fit(...)``."""

from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.clip_adapter import CLIPAdapter, CLIPAdapterConfig
from vlmadapt.adapters.coop import CoOp, CoOpConfig
from vlmadapt.adapters.graph_adapter import GraphAdapter, GraphAdapterConfig
from vlmadapt.adapters.hegraph.adapter import HeGraphAdapter, HeGraphAdapterConfig
from vlmadapt.adapters.linear_probe import LinearProbe, LinearProbeConfig
from vlmadapt.adapters.lp_plus_plus import LPPlusPlus, LPPlusPlusConfig
from vlmadapt.adapters.prompts import negative_template, negative_templates
from vlmadapt.adapters.registry import ADAPTERS, create_adapter, explaining_adapters, load_adapter
from vlmadapt.adapters.task_res import TaskRes, TaskResConfig
from vlmadapt.adapters.tip_adapter import TipAdapter, TipAdapterConfig, TipAdapterF, TipAdapterFConfig
from vlmadapt.adapters.votes import Vote
from vlmadapt.adapters.xm.adapter import XMAdapter, XMAdapterConfig
from vlmadapt.adapters.zero_shot import ZeroShot, ZeroShotConfig
from vlmadapt.config import AdapterConfig

METHODS = (
    ZeroShot,
    LinearProbe,
    LPPlusPlus,
    CoOp,
    CLIPAdapter,
    TaskRes,
    GraphAdapter,
    TipAdapter,
    TipAdapterF,
    XMAdapter,
    HeGraphAdapter,
)
ADAPTERS.update({adapter.name: adapter for adapter in METHODS})

__all__ = [
    "ADAPTERS",
    "Adapter",
    "AdapterConfig",
    "CLIPAdapter",
    "CLIPAdapterConfig",
    "CoOp",
    "CoOpConfig",
    "GraphAdapter",
    "GraphAdapterConfig",
    "HeGraphAdapter",
    "HeGraphAdapterConfig",
    "LPPlusPlus",
    "LPPlusPlusConfig",
    "LinearProbe",
    "LinearProbeConfig",
    "TaskRes",
    "TaskResConfig",
    "TipAdapter",
    "TipAdapterConfig",
    "TipAdapterF",
    "TipAdapterFConfig",
    "Vote",
    "XMAdapter",
    "XMAdapterConfig",
    "ZeroShot",
    "ZeroShotConfig",
    "create_adapter",
    "explaining_adapters",
    "load_adapter",
    "negative_template",
    "negative_templates",
]
