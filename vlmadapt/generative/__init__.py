"""Generative image-text models: loading, data, methods that attach to them, tasks and experiments."""
