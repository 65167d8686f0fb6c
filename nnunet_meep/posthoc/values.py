"""Counts the voxels of each distinct probability of a class, for isotonic regression.

Its fit depends only on the order of the probabilities and on how many voxels of either kind have
each of them. Up to some millions of distinct values it is therefore exact: the same as for all
voxels one by one. Beyond that, neighbouring values are put together so that memory stays bounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.posthoc.binary import WeightedVoxels

#: Maximum number of counts kept for all classes of a fit together, 16 bytes each. A value needs
#: two if voxels with and without the class have it.
MAX_COUNTS = 1 << 22


class ValueCounts:
    """How many voxels have each probability of a class, with and without the class.

    If there are more than ``at_most`` counts, neighbouring values are put together into groups of
    about the same number of voxels; a group has the mean probability of its voxels.
    """

    def __init__(self, at_most: int = MAX_COUNTS) -> None:
        self._at_most = at_most
        # The bits of a float >= 0, read as an integer, have the order of the floats. y is added as
        # the lowest bit, so that sorting one array of integers sorts by p and then by y.
        self._keys = [np.zeros(0, np.uint64)]
        self._counts = [np.zeros(0, np.int64)]

    def add(self, p: NDArray[np.floating], y: NDArray[np.integer]) -> None:
        """Count more voxels.

        Args:
            p: probabilities, (N,); they are clipped to [0, 1].
            y: 1 if the voxel has the class, else 0, (N,).
        """
        clipped = np.clip(p, 0, 1, dtype=np.float64) + 0.0  # turns -0 into 0
        keys = clipped.view(np.uint64) << np.uint64(1) | y.astype(np.uint64)
        unique, count = np.unique(keys, return_counts=True)
        self._keys.append(unique)
        self._counts.append(count)
        if sum(map(len, self._keys[1:])) > self._at_most // 2:
            self._merge()

    def voxels(self) -> WeightedVoxels:
        """The values so far, ascending in p."""
        self._merge()
        keys = self._keys[0]
        return WeightedVoxels(
            (keys >> np.uint64(1)).view(np.float64),
            (keys & np.uint64(1)).astype(np.float64),
            self._counts[0].astype(np.float64),
        )

    def _merge(self) -> None:
        keys, counts = _added_up(np.concatenate(self._keys), np.concatenate(self._counts))
        if len(keys) > self._at_most:
            keys, counts = _grouped(keys, counts, self._at_most // 2)
        self._keys, self._counts = [keys], [counts]


def _added_up(
    keys: NDArray[np.uint64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Each key once, ascending, with the sum of its counts."""
    order = np.argsort(keys, kind="stable")  # quick, because the keys are a few sorted sequences
    keys = keys[order]
    first = np.flatnonzero(_is_new(keys))
    return keys[first], np.add.reduceat(counts[order], first) if len(first) else counts


def _grouped(
    keys: NDArray[np.uint64], counts: NDArray[np.int64], n_groups: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Put neighbouring values together into at most ``n_groups`` groups; keys ascend."""
    bits = keys >> np.uint64(1)
    first = np.flatnonzero(_is_new(bits))
    p, n_voxels = bits[first].view(np.float64), np.add.reduceat(counts, first)
    behind = np.cumsum(n_voxels)
    # By the middle of its voxels, a value that many voxels have gets a group of its own.
    group = ((behind - n_voxels / 2) / behind[-1] * n_groups).astype(np.intp)
    total = np.bincount(group, weights=n_voxels)
    mean_p = np.bincount(group, weights=n_voxels * p) / np.maximum(total, 1)
    of_value = mean_p[group].view(np.uint64) << np.uint64(1)
    n_keys = np.diff(np.append(first, len(keys)))
    return _added_up(np.repeat(of_value, n_keys) | keys & np.uint64(1), counts)


def _is_new(ascending: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether an entry differs from the one before it."""
    return np.append(True, ascending[1:] != ascending[:-1])[: len(ascending)]
