"""The terms and the focal loss as the equations say them, one voxel at a time in Python floats.

Shares no code and no tensor operation with the package: what a term and its gradient with
respect to the logits have to be.
"""

from __future__ import annotations

import itertools
import math

import numpy as np


def problems(logits, target, ignore_label=None, regions=False):
    """Every valid classification problem: (its logits, its label, where they are in ``logits``).

    With labels that is each voxel that is not ignored. With regions it is each (voxel, region)
    pair: two classes with logits (0, z), of which only z has a place in ``logits``.
    """
    batch, channels, *spatial = logits.shape
    for b, *voxel in itertools.product(range(batch), *map(range, spatial)):
        if not regions:
            label = int(target[(b, 0, *voxel)])
            if label == ignore_label:
                continue
            where = [(b, k, *voxel) for k in range(channels)]
            yield [float(logits[place]) for place in where], label, where
            continue
        if ignore_label is not None and target[(b, channels, *voxel)]:
            continue
        for r in range(channels):
            place = (b, r, *voxel)
            yield [0.0, float(logits[place])], int(target[place]), [None, place]


def log_softmax(z):
    top = max(z)
    log_sum = top + math.log(sum(math.exp(x - top) for x in z))
    return [x - log_sum for x in z]


def counted(name, logits, target, ignore_label=None, regions=False):
    """The problems that a term sums over: the wrong ones, or all of them for CP."""
    return [
        (log_softmax(z), where)
        for z, label, where in problems(logits, target, ignore_label, regions)
        # list.index finds the first of equal logits
        if name == "CP" or z.index(max(z)) != label
    ]


def term(name, logits, target, ignore_label=None, regions=False):
    """Value and gradient (an array like ``logits``) of MEEP_KL, MEEP_H or CP."""
    summands = counted(name, logits, target, ignore_label, regions)
    value = 0.0
    gradient = np.zeros(logits.shape)
    for log_p, where in summands:
        n_classes = len(log_p)
        p = [math.exp(x) for x in log_p]
        entropy = -sum(a * b for a, b in zip(p, log_p, strict=True))
        if name == "MEEP_KL":
            value += -math.log(n_classes) - sum(log_p) / n_classes
        else:
            value += entropy
        for k, place in enumerate(where):
            if place is None:
                continue
            if name == "MEEP_KL":
                gradient[place] = (p[k] - 1 / n_classes) / len(summands)
            else:
                gradient[place] = -p[k] * (log_p[k] + entropy) / len(summands)
    return value / max(1, len(summands)), gradient


def focal(logits, target, gamma, ignore_label=None, regions=False):
    """Value and gradient of f = -(1 - p)^gamma log p, p being the probability of the true class.

    df/dp = gamma (1 - p)^(gamma - 1) log p - (1 - p)^gamma / p, and dp/dz_k = p (1[k=y] - p_k).
    """
    summands = list(problems(logits, target, ignore_label, regions))
    value = 0.0
    gradient = np.zeros(logits.shape)
    for z, label, where in summands:
        log_p = log_softmax(z)
        p = [math.exp(x) for x in log_p]
        # 1 - p without the difference, which is 0 in floats where the others are small
        error = sum(x for k, x in enumerate(p) if k != label)
        value -= error**gamma * log_p[label]
        # p df/dp, which is finite for p = 0; for 1 - p = 0 the first summand's limit is 0
        slope = -(error**gamma)
        if error:
            slope += gamma * p[label] * error ** (gamma - 1) * log_p[label]
        for k, place in enumerate(where):
            if place is not None:
                gradient[place] = slope * (error if k == label else -p[k]) / len(summands)
    return value / max(1, len(summands)), gradient


def counted_places(name, logits, target, ignore_label=None, regions=False):
    """True at the logits of the problems that a term sums over."""
    mask = np.zeros(logits.shape, dtype=bool)
    for _, where in counted(name, logits, target, ignore_label, regions):
        for place in where:
            if place is not None:
                mask[place] = True
    return mask
