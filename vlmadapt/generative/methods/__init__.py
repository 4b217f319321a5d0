"""Methods that attach to generative image-text models."""

from vlmadapt.generative.methods.attached import Attached
from vlmadapt.generative.models.coca_sites import multihead_site, multihead_sites
from vlmadapt.generative.models.sites import AttentionSite, FeedForwardSite, Sites, find_sites

__all__ = ["Attached", "AttentionSite", "FeedForwardSite", "Sites", "find_sites", "multihead_site", "multihead_sites"]
