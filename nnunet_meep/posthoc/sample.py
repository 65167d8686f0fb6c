"""A random sample of voxels, for fits that need the probabilities of all classes together.

Most voxels are correctly predicted background. The sample is therefore stratified by case, by class
in the reference, and by whether the predicted label is correct. The weight of a sampled voxel is
the number of voxels of its stratum that it represents.
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

#: Maximum number of probabilities (voxels times classes) in a sample of all cases. It may be
#: exceeded so that each stratum has at least one voxel.
MAX_VALUES = 2_000_000
#: Seed of the random choice, used together with the number of the case.
SEED = 0


@dataclass(frozen=True)
class Sample:
    """Sampled voxels with the probabilities of all classes.

    Attributes:
        p: probabilities, (N, K) float32.
        y: index of the correct class, (N,).
        weight: how many voxels each one represents, (N,) float64.
    """

    p: NDArray[np.float32]
    y: NDArray[np.intp]
    weight: NDArray[np.float64]

    @classmethod
    def joined(cls, samples: Sequence[Sample]) -> Sample:
        """The samples of several cases in one."""
        return cls(
            np.concatenate([s.p for s in samples]),
            np.concatenate([s.y for s in samples]),
            np.concatenate([s.weight for s in samples]),
        )


def voxels_per_case(n_cases: int, n_classes: int) -> int:
    """Number of voxels to sample from each case."""
    return max(MAX_VALUES // n_classes // n_cases, 1)


def sample_case(voxels: Voxels, labels: Labels, roi: Roi, n_voxels: int, number: int) -> Sample:
    """Sample voxels of one case; its probabilities are read twice.

    Args:
        voxels: the voxels of the case.
        labels: the classes, which must not be regions.
        roi: the voxels to sample from.
        n_voxels: maximum number of voxels, but at least one is taken from each stratum.
        number: number of the case, part of the random seed.

    Raises:
        InputError: the case cannot be used.
    """
    counts = voxels.counts(1)
    codes, winner = counts.codes_in(roi), counts.winner
    del counts
    chosen, weight = _choose(codes, winner, labels.ignored_code, n_voxels, number)
    p = np.empty((labels.n_channels, len(chosen)), np.float32)
    for part in voxels.parts():
        inside = slice(*np.searchsorted(chosen, [part.start, part.stop]))
        p[part.channel, inside] = part.p[chosen[inside] - part.start]
        part.release()
    return Sample(np.clip(p.T, 0, 1), codes[chosen].astype(np.intp), weight)


def _choose(
    codes: NDArray[np.unsignedinteger],
    winner: NDArray[np.unsignedinteger],
    ignored_code: int,
    n_voxels: int,
    number: int,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Indices of the sampled voxels, ascending, and how many voxels each one represents."""
    n_strata = 2 * ignored_code + 2

    def strata(start: int) -> NDArray[np.uint32]:
        part = slice(start, start + PART)
        is_winner: NDArray[np.bool_] = codes[part] == winner[part]
        return 2 * codes[part].astype(np.uint32) + is_winner

    starts = range(0, len(codes), PART)
    sizes = np.zeros(n_strata, np.int64)
    for start in starts:
        sizes += np.bincount(strata(start), minlength=n_strata)
    sizes[2 * ignored_code :] = 0
    quotas = shares(sizes, max(n_voxels, int(np.count_nonzero(sizes))))
    random = np.random.default_rng([SEED, number])
    # For each stratum, which of its voxels to take, counted in the order of the image.
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
    """How many voxels to take from each stratum: equal shares, or all if a stratum is smaller.

    What small strata leave is divided among the others. If ``total`` is at least the number of
    strata that are not empty, each of these gets at least one voxel; otherwise its voxels would not
    be represented at all.
    """
    result = np.zeros_like(sizes)
    left = total
    smallest_first = np.argsort(sizes, kind="stable")
    for i, s in enumerate(smallest_first):
        result[s] = min(int(sizes[s]), left // (len(sizes) - i))
        left -= int(result[s])
    return result
