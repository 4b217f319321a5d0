"""CLIP-LoRA: low-rank updates of an encoder's attention."""
