"""Prompt templates: the usual ones of the benchmarks, as published with CoOp (arXiv 2109.01134) and Tip-Adapter."""

from __future__ import annotations

DEFAULT = ("a photo of a {}.",)

TEMPLATES: dict[str, tuple[str, ...]] = {
    # The seven-prompt ensemble that Tip-Adapter (arXiv 2111.03930) takes from CLIP's (arXiv 2103.00020) list of 80.
    "imagenet": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
    "caltech101": ("a photo of a {}.",),
    "oxfordpets": ("a photo of a {}, a type of pet.",),
    "stanfordcars": ("a photo of a {}.",),
    "flowers102": ("a photo of a {}, a type of flower.",),
    "food101": ("a photo of {}, a type of food.",),
    "fgvcaircraft": ("a photo of a {}, a type of aircraft.",),
    "sun397": ("a photo of a {}.",),
    "dtd": ("{} texture.",),
    "eurosat": ("a centered satellite photo of {}.",),
    "ucf101": ("a photo of a person doing {}.",),
    # Ours, for the built-in sets.
    "clipart": ("clip art of a {}.", "a drawing of a {}.", "a simple icon of a {}."),
    "mnist5k": ('a photo of the handwritten digit "{}".',),
    "textile3": ("a photo of a {}.",),
    "tuxphotos": ("a photo of a {}.",),
}


def templates_for(name: str) -> tuple[str, ...]:
    """The templates of a benchmark or built-in set, else ``DEFAULT``."""
    return TEMPLATES.get(name, DEFAULT)
