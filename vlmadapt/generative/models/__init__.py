"""Generative image-text models: loading from local files, and generation for CoCa."""

from vlmadapt.generative.models.base import GenerativeModel, Tokenizer
from vlmadapt.generative.models.generation import generate
from vlmadapt.generative.models.load import load_generative

__all__ = ["GenerativeModel", "Tokenizer", "generate", "load_generative"]
