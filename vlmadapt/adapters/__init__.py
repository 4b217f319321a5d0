"""Few-shot classifiers behind one interface: ``create_adapter(name, text_features, logit_scale).fit(...)``."""

from vlmadapt.adapters.auto.adapter import Auto, AutoConfig
from vlmadapt.adapters.base import Adapter
from vlmadapt.adapters.clap import CLAP, ZSLP, CLAPConfig
from vlmadapt.adapters.clip_adapter import CLIPAdapter, CLIPAdapterConfig
from vlmadapt.adapters.coop import CoOp, CoOpConfig
from vlmadapt.adapters.gda import GDA, GDAConfig
from vlmadapt.adapters.graph_adapter import GraphAdapter, GraphAdapterConfig
from vlmadapt.adapters.hegraph.adapter import HeGraphAdapter, HeGraphAdapterConfig
from vlmadapt.adapters.linear_probe import LinearProbe, LinearProbeConfig
from vlmadapt.adapters.lora.adapter import CLIPLoRA, CLIPLoRAConfig
from vlmadapt.adapters.lp_plus_plus import LPPlusPlus, LPPlusPlusConfig
from vlmadapt.adapters.ncm import NCM, NCMConfig
from vlmadapt.adapters.no_text import NoText
from vlmadapt.adapters.proker import ProKeR, ProKeRConfig
from vlmadapt.adapters.prompts import negative_template, negative_templates
from vlmadapt.adapters.registry import (
    ADAPTERS,
    adapters_without_text,
    create_adapter,
    explaining_adapters,
    load_adapter,
)
from vlmadapt.adapters.ss_text import SSText, SSTextConfig
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
    ZSLP,
    CLAP,
    SSText,
    NCM,
    GDA,
    ProKeR,
    CoOp,
    CLIPLoRA,
    CLIPAdapter,
    TaskRes,
    GraphAdapter,
    TipAdapter,
    TipAdapterF,
    XMAdapter,
    HeGraphAdapter,
    Auto,
)
ADAPTERS.update({adapter.name: adapter for adapter in METHODS})

__all__ = [
    "ADAPTERS",
    "CLAP",
    "GDA",
    "NCM",
    "ZSLP",
    "Adapter",
    "AdapterConfig",
    "Auto",
    "AutoConfig",
    "CLAPConfig",
    "CLIPAdapter",
    "CLIPAdapterConfig",
    "CLIPLoRA",
    "CLIPLoRAConfig",
    "CoOp",
    "CoOpConfig",
    "GDAConfig",
    "GraphAdapter",
    "GraphAdapterConfig",
    "HeGraphAdapter",
    "HeGraphAdapterConfig",
    "LPPlusPlus",
    "LPPlusPlusConfig",
    "LinearProbe",
    "LinearProbeConfig",
    "NCMConfig",
    "NoText",
    "ProKeR",
    "ProKeRConfig",
    "SSText",
    "SSTextConfig",
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
    "adapters_without_text",
    "create_adapter",
    "explaining_adapters",
    "load_adapter",
    "negative_template",
    "negative_templates",
]
