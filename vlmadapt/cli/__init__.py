"""The ``vlmadapt`` command. Torch and everything above it are imported by the commands, so that help is quick."""

from vlmadapt.cli.app import app, main

__all__ = ["app", "main"]
