"""The formulas written as loops over Python floats: the truth that adapters are held against."""

from __future__ import annotations

import math


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def unit(a):
    norm = math.sqrt(dot(a, a))
    return [x / norm for x in a]


def matvec(matrix, vector):
    return [dot(row, vector) for row in matrix]


def tip_logits(query, text, keys, labels, tau, beta, alpha):
    """arXiv 2111.03930: tau f.w_c + alpha * sum over the class of exp(-beta (1 - f.F_k))."""
    logits = [tau * dot(query, row) for row in text]
    for key, label in zip(keys, labels, strict=True):
        logits[label] += alpha * math.exp(-beta * (1 - dot(query, key)))
    return logits


def xm_affinities(query, text_query, keys, text_keys, labels, beta_image, beta_text):
    """Both affinities of one query to every entry, arXiv 2404.12588."""
    image = [math.exp(-beta_image * (1 - dot(query, key))) for key in keys]
    text = [math.exp(-beta_text * (1 - dot(text_query, text_keys[label]))) for label in labels]
    return image, text


def log_softmax_at(logits, label):
    top = max(logits)
    return logits[label] - top - math.log(math.fsum(math.exp(value - top) for value in logits))
