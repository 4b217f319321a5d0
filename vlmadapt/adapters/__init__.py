"""Few-shot classifiers behind one interface: ``create_adapter(name, text_features, logit_scale).fit(...)``."""

from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.clip_adapter import CLIPAdapter, CLIPAdapterConfig
from vlmadapt.adapters.config import AdapterConfig
from vlmadapt.adapters.linear_probe import LinearProbe, LinearProbeConfig
from vlmadapt.adapters.registry import ADAPTERS, create_adapter, explaining_adapters, load_adapter
from vlmadapt.adapters.task_res import TaskRes, TaskResConfig
from vlmadapt.adapters.tip_adapter import TipAdapter, TipAdapterConfig, TipAdapterF, TipAdapterFConfig
from vlmadapt.adapters.votes import Vote
from vlmadapt.adapters.xm_adapter import XMAdapter, XMAdapterConfig
from vlmadapt.adapters.zero_shot import ZeroShot, ZeroShotConfig

__all__ = [
    "ADAPTERS",
    "Adapter",
    "AdapterConfig",
    "CLIPAdapter",
    "CLIPAdapterConfig",
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
]
