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


def means_of_classes(rows, labels, classes):
    """Mean row of each class, None where it has none."""
    of = [[row for row, label in zip(rows, labels, strict=True) if label == c] for c in range(classes)]
    return [[math.fsum(column) / len(group) for column in zip(*group, strict=True)] if group else None for group in of]


def solve(matrix, wanted):
    """``x`` of ``matrix x = wanted``, by elimination with pivots."""
    rows = [[*row, value] for row, value in zip(matrix, wanted, strict=True)]
    size = len(rows)
    for i in range(size):
        pivot = max(range(i, size), key=lambda row: abs(rows[row][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for j in range(i + 1, size):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    found = [0.0] * size
    for i in reversed(range(size)):
        found[i] = (rows[i][size] - dot(rows[i][i + 1 : size], found[i + 1 :])) / rows[i][i]
    return found


def gda_scores(query, samples, labels, classes):
    """arXiv 2402.04087: f P mu - mu P mu / 2, P = D ((n - 1) Cov + tr(Cov) I)^-1, by solving instead of inverting."""
    means = means_of_classes(samples, labels, classes)
    centred = [[x - m for x, m in zip(row, means[c], strict=True)] for row, c in zip(samples, labels, strict=True)]
    width = len(query)
    scatter = [[math.fsum(row[i] * row[j] for row in centred) for j in range(width)] for i in range(width)]
    trace = math.fsum(scatter[i][i] for i in range(width)) / (len(samples) - 1)
    regular = [[value + (trace if i == j else 0) for j, value in enumerate(row)] for i, row in enumerate(scatter)]
    scores = []
    for mean in means:
        weight = [width * value for value in solve(regular, mean)]
        scores.append(dot(query, weight) - dot(mean, weight) / 2)
    return scores


def proker_logits(query, text, samples, labels, tau, beta, lam):
    """arXiv 2501.11175: tau (f W^T + k(f, S) (K / lam + I)^-1 (Y - S W^T))."""

    def kernel(a, b):
        return math.exp(-beta * (1 - dot(a, b)))

    system = [[kernel(a, b) / lam + (i == j) for j, b in enumerate(samples)] for i, a in enumerate(samples)]
    logits = []
    for c, row in enumerate(text):
        values = solve(system, [(label == c) - dot(a, row) for a, label in zip(samples, labels, strict=True)])
        near = [kernel(query, a) for a in samples]
        logits.append(tau * (dot(query, row) + dot(near, values)))
    return logits
