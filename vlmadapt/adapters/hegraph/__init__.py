"""HeGraphAdapter (arXiv 2410.07854)."""
