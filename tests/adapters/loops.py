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


def cosine(a, b):
    return dot(unit(a), unit(b))


def signed_relation(targets, sources, diagonal):
    """r[i][j] of arXiv 2410.07854 with its diagonal rule: "keep", "negate" or "zero"."""
    sign = {"keep": 1.0, "negate": -1.0, "zero": 0.0}[diagonal]
    return [
        [cosine(target, source) * (sign if i == j else 1.0) for j, source in enumerate(sources)]
        for i, target in enumerate(targets)
    ]


def degrees(relation, of_sources):
    """Sums of |r| over each target's row, and over each source's column (or over row j, when not ``of_sources``)."""
    rows = [math.fsum(abs(r) for r in row) for row in relation]
    columns = [math.fsum(abs(row[j]) for row in relation) for j in range(len(relation))]
    return rows, columns if of_sources else rows


def message_input(relation, targets, sources, of_sources=True, own_term=True):
    """h_i = x_i / (d_i + 1) + sum_j r_ij / sqrt((d_i + 1)(e_j + 1)) x_j."""
    d, e = degrees(relation, of_sources)
    rows = []
    for i, target in enumerate(targets):
        own = [x / (d[i] + 1) if own_term else 0.0 for x in target]
        for j, source in enumerate(sources):
            weight = relation[i][j] / math.sqrt((d[i] + 1) * (e[j] + 1))
            own = [h + weight * x for h, x in zip(own, source, strict=True)]
        rows.append(own)
    return rows


def messages(inputs, matrix, act=math.tanh):
    return [[act(value) for value in matvec(matrix, row)] for row in inputs]


def combine(rows, *terms):
    """rows + sum of coefficient * message, row by row."""
    return [[x + math.fsum(c * m[i][k] for c, m in terms) for k, x in enumerate(row)] for i, row in enumerate(rows)]


def softmax(values):
    top = max(values)
    parts = [math.exp(value - top) for value in values]
    return [part / math.fsum(parts) for part in parts]
