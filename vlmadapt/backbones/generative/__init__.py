"""Generative image-text models: loading from local files, and generation for CoCa."""

from vlmadapt.backbones.generative.base import GenerativeModel, Tokenizer, load_generative
from vlmadapt.backbones.generative.generation import generate

__all__ = ["GenerativeModel", "Tokenizer", "generate", "load_generative"]
