"""The probabilities of each class at the voxels where a segmentation has it.

They are gathered part by part while a file is read, if the segmentation is known before. No
indices are kept: the probabilities are in the memory order of the file, so that a mask of the same
voxels says where each one belongs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import Part


class PredictedVoxels:
    """Gathers probabilities at the voxels of a segmentation; several threads may add parts."""

    def __init__(
        self,
        labels: Labels,
        segmentation: NDArray[np.unsignedinteger],
        segmented_label: Sequence[int],
        loops: ModuleType,
    ) -> None:
        """Start with nothing gathered.

        Args:
            labels: the classes; the background is left out.
            segmentation: indices into ``segmented_label``, (N,), in the memory order of the file.
            segmented_label: the label that each index stands for.
            loops: see :func:`.loops_for`.
        """
        self._segmentation, self._loops = segmentation, loops
        channels = [labels.channel(i) for i in range(len(labels.classes))]
        self._has_class = {c: np.isin(segmented_label, labels.channel_members(c)) for c in channels}
        self._pieces: dict[int, dict[int, NDArray[np.floating]]] = {c: {} for c in channels}

    @property
    def is_gathered(self) -> bool:
        """Whether anything was added."""
        return all(self._pieces.values())

    def add(self, part: Part) -> None:
        """Gather from a part of the file, before it is released."""
        if part.channel in self._pieces:
            p = self._take(part.p, part.channel, slice(part.start, part.stop))
            self._pieces[part.channel][part.index] = np.clip(p, 0, 1, out=p)

    def add_largest(self, largest: NDArray[np.floating]) -> None:
        """Gather all from the largest probability of each voxel, (N,), if that is the predicted."""
        for channel, pieces in self._pieces.items():
            pieces[0] = self._take(largest, channel)

    def where_counted(
        self, channel: int, codes: NDArray[np.unsignedinteger] | None, ignored_code: int
    ) -> NDArray[np.floating]:
        """The gathered probabilities of a class at the voxels that count.

        Args:
            channel: that of the class.
            codes: of the reference, (N,); None if all voxels count.
            ignored_code: their value at the voxels that do not count.

        Returns:
            (n,) in the order of the voxels, in [0, 1].
        """
        pieces = self._pieces[channel]
        if len(pieces) > 1:  # keep the whole in place of its pieces
            pieces = {0: np.concatenate([pieces[index] for index in sorted(pieces)])}
            self._pieces[channel] = pieces
        p = pieces[0]
        return p if codes is None else p[self._take(codes, channel) != ignored_code]

    def expected_overlap(
        self, channel: int, codes: NDArray[np.unsignedinteger] | None, ignored_code: int
    ) -> float:
        """The sum of :meth:`where_counted`; 0 for the background, NaN if not gathered."""
        if channel not in self._pieces:
            return 0.0
        if not self._pieces[channel]:
            return math.nan
        p = self.where_counted(channel, codes, ignored_code)
        return float(p.sum(dtype=np.float64))

    def _take(
        self, values: NDArray[Any], channel: int, voxels: slice = slice(None)
    ) -> NDArray[Any]:
        taken: NDArray[Any] = self._loops.take_where(
            values, self._segmentation[voxels], self._has_class[channel]
        )
        return taken
