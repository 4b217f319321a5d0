"""Methods that attach to generative image-text models."""

from vlmadapt.adapters.generative.attached import Attached
from vlmadapt.adapters.generative.coca import multihead_site, multihead_sites
from vlmadapt.adapters.generative.protocol import AttentionSite, FeedForwardSite, Sites, find_sites

__all__ = ["Attached", "AttentionSite", "FeedForwardSite", "Sites", "find_sites", "multihead_site", "multihead_sites"]
