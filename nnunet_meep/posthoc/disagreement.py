"""How much the members of an ensemble, for example folds, disagree in each voxel.

With p_m the probabilities of member m = 1..M:

- the mutual information ``H(mean_m p_m) - mean_m H(p_m)`` in nats: 0 where all members say the
  same, at most log M. H is the entropy over the classes. Regions, which overlap, are questions of
  their own: there it is the sum over the R regions, each with the entropy of p and 1 - p, and at
  most R log 2;
- the standard deviation of p_m over the members (divided by M), of the class or region for which it
  is largest: 0 where all members say the same, at most 1/2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr


class Disagreement:
    """Adds up the two maps of a case, channel by channel and part by part.

    Args:
        n_voxels: number of voxels of the case.
        is_region_based: whether the channels are regions.

    Attributes:
        mutual_information: (n_voxels,) float32, in nats; complete once every channel is added.
        std: (n_voxels,) float32, likewise.
    """

    def __init__(self, n_voxels: int, *, is_region_based: bool) -> None:
        self.mutual_information = np.zeros(n_voxels, np.float32)
        self.std = np.zeros(n_voxels, np.float32)
        self._entropy = _of_region if is_region_based else entr

    def add(self, voxels: slice, p: NDArray[np.floating]) -> None:
        """Add some voxels of one channel.

        Args:
            voxels: which voxels.
            p: probabilities of the members, (M, voxels).
        """
        p = np.clip(p, 0, 1, dtype=np.float64)
        gap = self._entropy(p.mean(axis=0)) - self._entropy(p).mean(axis=0)
        # Entropy is concave in each channel: what is below 0 is rounding.
        self.mutual_information[voxels] += np.maximum(gap, 0)
        np.maximum(self.std[voxels], p.std(axis=0), out=self.std[voxels], casting="same_kind")


def _of_region(p: NDArray[np.floating]) -> NDArray[np.floating]:
    entropy: NDArray[np.floating] = entr(p) + entr(1 - p)
    return entropy
