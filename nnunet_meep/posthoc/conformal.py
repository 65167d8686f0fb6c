"""Bounds from validation cases that hold for further cases of the same kind.

Both hold on average over validation sets and further cases (marginally), if all these cases are
exchangeable, such as random draws from one population. They say nothing about a single case, nor
about cases of another hospital.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

#: Sums of rates are rounded; a sum that is larger than its bound by less is taken as equal.
_ROUNDING = 1e-9


def rank_of_bound(n: int, coverage: float) -> int:
    """``ceil((n + 1) * coverage)``, the rank of the score below which a further one is to be.

    More than n if there are too few scores. In fractions: 0.9 is taken as 9/10, whereas
    ``(9 + 1) * 0.9`` in floats may be above 9.
    """
    return math.ceil((n + 1) * _exact(coverage))


def fewest_for_coverage(coverage: float) -> int:
    """The least n for which :func:`rank_of_bound` is not more than n: 9 for 0.9, 19 for 0.95."""
    return math.ceil(_exact(coverage) / (1 - _exact(coverage)))


def split_conformal_bound(scores: NDArray[np.float64], coverage: float) -> float:
    """A bound that the score of a further case exceeds with a probability of at most 1 - coverage.

    The k-th smallest score, k from :func:`rank_of_bound` (split conformal prediction; Lei et al.
    2018).

    Args:
        scores: one for each validation case, (n,), n at least :func:`fewest_for_coverage`.
        coverage: above 0 and below 1.
    """
    return float(np.sort(scores)[rank_of_bound(len(scores), coverage) - 1])


def fewest_for_risk(alpha: float) -> int:
    """The least n with 1 / (n + 1) <= alpha, without which no risk of alpha can be kept."""
    return math.ceil(1 / _exact(alpha)) - 1


def keeps_risk(total_loss: NDArray[np.float64], n: int, alpha: float) -> NDArray[np.bool_]:
    """Where the expected loss of a further case is at most alpha (conformal risk control).

    Where ``n / (n + 1) * mean loss + 1 / (n + 1) <= alpha`` (Angelopoulos et al. 2024). The loss
    of a case has to be in [0, 1], and must not rise from one threshold to the next lower one.

    Args:
        total_loss: sum of the loss over the n validation cases, for each threshold.
        n: number of cases.
        alpha: above 0 and below 1.
    """
    return total_loss <= float(_exact(alpha) * (n + 1) - 1) + _ROUNDING


def _exact(share: float) -> Fraction:
    """The share as it was typed: 0.9 is 9/10, and not the nearest float."""
    return Fraction(repr(float(share)))
