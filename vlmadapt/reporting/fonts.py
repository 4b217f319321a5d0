"""Text in pictures: fonts that know most scripts, and names cut to length."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

WIDER_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei")


@contextmanager
def wide_fonts() -> Iterator[None]:
    """Draw with matplotlib's own font, then installed ones that know scripts it lacks; the rest is drawn as boxes."""
    import matplotlib as mpl
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    family = ["DejaVu Sans", *(name for name in WIDER_FONTS if name in installed)]
    with mpl.rc_context({"font.family": family}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def short(text: str, width: int) -> str:
    """``text`` cut to ``width`` characters, with its dollar signs kept from matplotlib's mathematics mode."""
    cut = text if len(text) <= width else text[: width - 1].rstrip() + "…"
    return cut.replace("$", r"\$")
