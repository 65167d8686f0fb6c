"""A sample of voxels with the probabilities of all their classes, for fits that need them together.

Stratified by case, class of the reference, and whether the largest probability is right, because
most voxels are background that is. Each voxel of the sample has a weight: how many of its stratum
it stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import PART
from nnunet_meep.posthoc.voxels import Voxels

#: Probabilities (voxels times classes) in a sample at most, but for one voxel of each stratum.
MAX_VALUES = 2_000_000
#: Of the random choice, together with the number of the case.
SEED = 0


@dataclass(frozen=True)
class Sample:
    """Voxels of several classes.

    Attributes:
        p: probabilities, (N, K) float32.
        y: index of the right class, (N,).
        weight: how many voxels each stands for, (N,) float64.
    """

    p: NDArray[np.float32]
    y: NDArray[np.intp]
    weight: NDArray[np.float64]

    @classmethod
    def joined(cls, samples: Sequence[Sample]) -> Sample:
        """Those of several cases together."""
        return cls(
            np.concatenate([s.p for s in samples]),
            np.concatenate([s.y for s in samples]),
            np.concatenate([s.weight for s in samples]),
        )


def voxels_per_case(n_cases: int, n_classes: int) -> int:
    """How many voxels of each case may be sampled."""
    return max(MAX_VALUES // n_classes // n_cases, 1)


def sample_case(voxels: Voxels, labels: Labels, roi: Roi, n_voxels: int, number: int) -> Sample:
    """Sample the voxels of a case of labels; its probabilities are read twice.

    Args:
        voxels: of the case.
        labels: the classes, no regions.
        roi: where voxels count.
        n_voxels: how many at most; more if there are more strata, each of which has one.
        number: of the case, for the random choice.

    Raises:
        InputError: the case cannot be used.
    """
    counts = voxels.counts(1)
    codes, winner = counts.codes_in(roi), counts.winner
    del counts
    chosen, weight = _choose(codes, winner, labels.nowhere, n_voxels, number)
    p = np.empty((labels.n_channels, len(chosen)), np.float32)
    for part in voxels.parts():
        inside = slice(*np.searchsorted(chosen, [part.start, part.stop]))
        p[part.channel, inside] = part.p[chosen[inside] - part.start]
        part.release()
    return Sample(np.clip(p.T, 0, 1), codes[chosen].astype(np.intp), weight)


def _choose(
    codes: NDArray[np.unsignedinteger],
    winner: NDArray[np.unsignedinteger],
    nowhere: int,
    n_voxels: int,
    number: int,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which voxels, ascending, and how many each stands for."""
    n_strata = 2 * nowhere + 2

    def strata(start: int) -> NDArray[np.uint32]:
        part = slice(start, start + PART)
        return 2 * codes[part].astype(np.uint32) + (codes[part] == winner[part])

    starts = range(0, len(codes), PART)
    sizes = np.zeros(n_strata, np.int64)
    for start in starts:
        sizes += np.bincount(strata(start), minlength=n_strata)
    sizes[2 * nowhere :] = 0
    quotas = shares(sizes, max(n_voxels, int(np.count_nonzero(sizes))))
    random = np.random.default_rng([SEED, number])
    # Which of each stratum, counted in the order of the voxels.
    ranks = [
        np.sort(random.choice(n, k, replace=False, shuffle=False))
        for n, k in zip(sizes.tolist(), quotas.tolist(), strict=True)
    ]
    chosen, weights, seen = [], [], np.zeros(n_strata, np.int64)
    for start in starts:
        stratum = strata(start)
        order = np.argsort(stratum, kind="stable")
        here = np.bincount(stratum, minlength=n_strata)
        first = np.cumsum(here) - here
        for s in np.flatnonzero(here * (quotas > 0)):
            low, high = np.searchsorted(ranks[s], [seen[s], seen[s] + here[s]])
            found = order[first[s] + ranks[s][low:high] - seen[s]] + start
            chosen.append(found)
            weights.append(np.full(len(found), sizes[s] / quotas[s]))
        seen += here
    if not chosen:
        return np.zeros(0, np.intp), np.zeros(0)
    everything = np.concatenate(chosen)
    ascending = np.argsort(everything)
    return everything[ascending], np.concatenate(weights)[ascending]


def shares(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """How many of each stratum: equal parts, and what small strata leave goes to the others.

    With a total of at least as many as there are strata, each has one: none may be lost, because
    nothing else would stand for its voxels.
    """
    result = np.zeros_like(sizes)
    left = total
    smallest_first = np.argsort(sizes, kind="stable")
    for i, s in enumerate(smallest_first):
        result[s] = min(int(sizes[s]), left // (len(sizes) - i))
        left -= int(result[s])
    return result
