"""The version, which what is imported first and what is imported last both read."""

__version__ = "0.1.0"
