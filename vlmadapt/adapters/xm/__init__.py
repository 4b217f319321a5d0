"""XMAdapter (arXiv 2404.12588)."""
