"""CIDEr (arXiv 1411.5726) and BLEU-4 of captions, computed by the package ``pycocoevalcap``."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    if len(predictions) != len(references) or len(predictions) < 2:
        raise InputError(
            f"predictions has {len(predictions)} captions and references {len(references)} pictures: give as many of "
            "each, at least two."
        )
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise MissingDependency("pycocoevalcap is not installed: run `pip install 'vlmadapt[generative]'`.") from error
    said = {number: [tokenize_caption(text)] for number, text in enumerate(predictions)}
    wanted = {number: list(filter(None, map(tokenize_caption, texts))) for number, texts in enumerate(references)}
    for number, texts in wanted.items():
        if not texts:
            raise InputError(f"references of picture {number} are {list(references[number])}: give one with a word.")
    bleu, _ = Bleu(4).compute_score(wanted, said, verbose=0)
    cider, _ = Cider().compute_score(wanted, said)
    return {"cider": float(cider), "bleu4": float(bleu[3])}
