"""CIDEr (arXiv 1411.5726) and BLEU-4 of captions, computed by the package ``pycocoevalcap``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vlmadapt.errors import InputError, MissingDependency


def tokenize_caption(text: str) -> str:
    """Lower-case words with single spaces, punctuation dropped.

    The published scores use the Penn Treebank tokenizer of Stanford CoreNLP, a Java program. This one differs from it
    in clitics ("it's" stays one word there two) and in rare symbols, so scores here compare with each other, not to the
    last digit with published ones.
    """
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\u2019", "'")))


def caption_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``{"cider", "bleu4"}`` of one caption a picture; both as fractions of their usual per-cent figures.

    CIDEr weighs n-grams by how rare they are among the references of this very set: it needs two pictures or more.
    A caption without words scores 0; references without words are left out. Raises :class:`InputError` for lists of
    different lengths and a picture without any other reference, :class:`MissingDependency` without the package.
    """
    said, wanted = _tokenized(predictions, references)
    cider, bleu = _scorers()
    found, _ = bleu(4).compute_score(wanted, said, verbose=0)
    return {"cider": float(cider().compute_score(wanted, said)[0]), "bleu4": float(found[3])}


def cider_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The CIDEr of each picture, whose mean is that of :func:`caption_scores`; raises what that raises."""
    said, wanted = _tokenized(predictions, references)
    return [float(score) for score in _scorers()[0]().compute_score(wanted, said)[1]]


def _tokenized(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Both by picture, as the package takes them."""
    if len(predictions) != len(references) or len(predictions) < 2:
        raise InputError(
            f"predictions has {len(predictions)} captions and references {len(references)} pictures: give as many of "
            "each, at least two."
        )
    said = {number: [tokenize_caption(text)] for number, text in enumerate(predictions)}
    wanted = {number: list(filter(None, map(tokenize_caption, texts))) for number, texts in enumerate(references)}
    for number, texts in wanted.items():
        if not texts:
            raise InputError(f"references of picture {number} are {list(references[number])}: give one with a word.")
    return said, wanted


def _scorers() -> tuple[Any, Any]:
    """CIDEr's and BLEU's."""
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise MissingDependency("pycocoevalcap is not installed: run `pip install 'vlmadapt[generative]'`.") from error
    return Cider, Bleu
