"""vlmadapt: adapt vision-language models from a handful of images."""

__version__ = "0.1.0"
