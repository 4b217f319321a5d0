"""Generative image-text models: loading from local files, and generation for CoCa."""

from vlmadapt.generative.models.base import GenerativeModel, Tokenizer, load_generative
from vlmadapt.generative.models.generation import generate

__all__ = ["GenerativeModel", "Tokenizer", "generate", "load_generative"]
