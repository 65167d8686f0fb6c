"""What one of the lanes in which a case is counted has counted so far."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import Grid
from nnunet_meep.evaluation.counting.class_counts import ClassCounts
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import Part

#: In how many lanes the parts of a case are counted, each by one thread.
N_LANES = 2


class LaneCounts:
    """The counts of one lane."""

    def __init__(
        self,
        labels: Labels,
        grid: Grid,
        of_channel: Sequence[NDArray[np.uint8]],
        rois: Sequence[str],
        loops: ModuleType,
    ) -> None:
        """Start with nothing counted.

        Args:
            labels: the classes.
            grid: the cells.
            of_channel: for each channel, what :meth:`.Labels.y_of_code` says of its class.
            rois: names of the ROIs to count.
            loops: see :func:`.loops_for`.
        """
        self._grid, self._of_channel, self._loops = grid, of_channel, loops
        right = np.array([0, 1, 2], np.uint8)
        # The Brier score and NLL of the background are not reported.
        self._unscored = () if labels.is_region_based else (0,)
        self._counters: dict[tuple[int, str], Any] = {}
        self.counted: dict[tuple[int, str], ClassCounts] = {}
        self.unsure = {name: self._counter(right, score=False) for name in rois}
        self.losers = {name: self._counter(right, score=False) for name in rois}
        n_codes, n_winners = labels.ignored_code + 1, len(labels.predicted_label)
        self.pairs = {name: np.zeros((n_codes, n_winners), np.int64) for name in rois}
        self.n_clipped = 0
        self.n_not_finite = 0
        self.low, self.high = 0.0, 1.0
        self.sum_error = 0.0

    def _counter(self, y_of_code: NDArray[np.uint8], *, score: bool) -> Any:
        return self._loops.ClassCounter(self._grid, y_of_code, score=score)

    def count(self, part: Part, roi: str, codes: NDArray[np.unsignedinteger]) -> tuple[int, int]:
        """Count a part in an ROI; see :meth:`ClassCounter.add`."""
        key = part.channel, roi
        if key not in self._counters:
            self._counters[key] = self._counter(
                self._of_channel[part.channel], score=part.channel not in self._unscored
            )
        result: tuple[int, int] = self._counters[key].add(part.p, codes)
        if part.left < N_LANES:  # the last part of the lane: keep non-empty cells only
            self.counted[key] = self._counters.pop(key).counted()
        return result

    def note_bad(self, p: NDArray[np.floating]) -> None:
        """Record the range, and how many values are not finite, for the error message."""
        finite = p[np.isfinite(p)]
        self.n_not_finite += len(p) - len(finite)
        self.low = min(self.low, float(finite.min(initial=0)))
        self.high = max(self.high, float(finite.max(initial=1)))
