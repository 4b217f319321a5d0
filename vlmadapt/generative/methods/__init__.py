"""Methods that attach to generative image-text models."""

from vlmadapt.generative.methods.attached import Attached
from vlmadapt.generative.models.interface import interface_sites
from vlmadapt.generative.models.load import find_sites
from vlmadapt.generative.models.multihead import multihead_site, multihead_sites
from vlmadapt.generative.models.sites import AttentionSite, FeedForwardSite, Sites, attention_adapter

__all__ = [
    "Attached",
    "AttentionSite",
    "FeedForwardSite",
    "Sites",
    "attention_adapter",
    "find_sites",
    "interface_sites",
    "multihead_site",
    "multihead_sites",
]
