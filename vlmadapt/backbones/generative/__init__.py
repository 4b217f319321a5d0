"""Generative image-text models: loading from local files, and generation for CoCa."""
