"""Methods that attach to generative image-text models."""

from vlmadapt.adapters.generative.attached import Attached

__all__ = ["Attached"]
