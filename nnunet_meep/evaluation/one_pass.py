"""One reading pass over a case: from its files to the sums from which everything follows.

Probabilities are counted while they are read. Two threads count, each its own voxels (the parts of
an image in turn), so that the sums do not depend on which of them was faster. Of the voxels
themselves are kept: the reference, and for labels the largest probability so far, its channel and
the sum over the channels, from which follow the segmentation, the check that the probabilities sum
to one, and what is said of the top label. Most of that is known from the classes: a probability above
one half is the largest one. Only voxels whose largest probability is not above one half, and those
with two that are (rounding), are counted once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.bins import Cells, CellTotals, ClassSums, Grid, grid
from nnunet_meep.evaluation.cases import Case, Dataset, read_label_map
from nnunet_meep.evaluation.counting import (
    RANGE_TOLERANCE,
    Counted,
    Counter,
    class_sums,
    count_pairs,
)
from nnunet_meep.evaluation.labels import Labels, UnknownLabels
from nnunet_meep.evaluation.regions import Region, restrict
from nnunet_meep.evaluation.stream import SUM_TOLERANCE, Part, ProbabilityFile, open_probabilities
from nnunet_meep.evaluation.surface import bounding_box, surface_distances_mm

_LANES = 2


@dataclass(frozen=True)
class RegionSums:
    """The sums over the voxels of a region of a case.

    Attributes:
        channels: for each channel of the probabilities, background included.
        top_label: of the largest probability of each voxel, y = it is the right one; None for
            regions of labels, which overlap.
    """

    channels: tuple[ClassSums, ...]
    top_label: Cells | None


@dataclass(frozen=True)
class CaseSums:
    """All that is kept of a case.

    Attributes:
        case: its name.
        n_clipped: probabilities that left [0, 1] by rounding and were clipped.
        regions: sums by the name of the region.
        distances_mm: for each class ``hd``, ``hd95``, ``assd`` over the whole image; None if not
            asked for.
    """

    case: str
    n_clipped: int
    regions: dict[str, RegionSums]
    distances_mm: tuple[dict[str, float], ...] | None


def sum_case(
    case: Case, dataset: Dataset, n_bins: int, regions: Sequence[Region], surface: bool
) -> CaseSums:
    """Read a case once and reduce it to its sums.

    Raises:
        InputError: a file cannot be read, or its values cannot be what they should be; the line
            names the file, what was expected and what came.
    """
    label_map, spacing_mm = read_label_map(case.reference, dataset)
    labels = dataset.labels
    try:
        codes = labels.encode(label_map)
    except UnknownLabels as error:
        known = [*labels.values, *([labels.ignore_label] if labels.ignore_label else [])]
        found = ", ".join(f"{v:g}" for v in error.args[0][:10])
        raise InputError(
            f"{case.reference}: expected the labels of dataset.json, {known}, found also {found}"
        ) from None
    del label_map
    with open_probabilities(case.probabilities) as file:
        expected = (labels.n_channels, *codes.shape)
        if file.shape != expected:
            raise InputError(
                f"{case.probabilities}: expected probabilities of shape {expected} (classes or "
                f"regions of dataset.json, then the axes of {case.reference.name}), got {file.shape}"
            )
        if not math.prod(expected):
            raise InputError(
                f"{file.path}: expected voxels, got an empty array of shape {expected}"
            )
        # Voxels in the order of the file; for crop all count until the padding is known.
        of_region = {
            r.name: restrict(codes, r, case, dataset, spacing_mm).ravel(file.order) for r in regions
        }
        if "crop" in of_region:
            of_region.setdefault("image", of_region["crop"])
        counts = _Counts(labels, grid(n_bins), of_region, file.dtype)
        with _threads() as lanes:
            for part in file.parts():
                lane = part.index % _LANES
                lanes[lane].submit(counts.add, part, lane)
        counts.check(file)

    voxel_ml = _voxel_ml(codes.shape, spacing_mm)
    if "crop" in of_region:
        counts.remove_padding(codes, file.order)
    return CaseSums(
        case.name,
        counts.n_clipped,
        {r.name: counts.sums(r.name, voxel_ml) for r in regions},
        counts.distances_mm(codes, spacing_mm, file.order) if surface else None,
    )


def _voxel_ml(shape: tuple[int, ...], spacing_mm: Sequence[float]) -> float:
    # nnU-Net gives 2D images a first axis of one voxel, 999 times as large: no thickness at all.
    if shape[0] == 1 and spacing_mm[0] >= 999 * max(spacing_mm[1:]):
        return math.nan
    return math.prod(spacing_mm) / 1000


class _Counts:
    """What is known of the voxels of a case so far. Arrays over voxels are in the file's order."""

    def __init__(
        self,
        labels: Labels,
        grid: Grid,
        codes: dict[str, NDArray[np.unsignedinteger]],
        dtype: np.dtype,
    ) -> None:
        """``codes``: by region, (N,)."""
        n_voxels = len(next(iter(codes.values())))
        self._labels, self._grid = labels, grid
        self._has_regions = labels.regions_class_order is not None
        self._codes = {name: c for name, c in codes.items() if name != "crop"}
        self._of_channel = [
            labels.y_of_code(labels.channel_members(c)) for c in range(labels.n_channels)
        ]
        n_winners = len(labels.predicted_label)
        self._winner = np.zeros(n_voxels, np.uint8 if n_winners <= 256 else np.uint16)
        exact = np.float64 if dtype == np.float64 else np.float32
        self._largest = np.zeros(0 if self._has_regions else n_voxels, exact)
        self._total = np.zeros(n_voxels if labels.n_channels > 2 else 0, exact)
        self._not_padding = np.zeros(n_voxels if "crop" in codes else 0, np.bool_)
        self._lanes = [_LaneCounts(self) for _ in range(_LANES)]
        # What crop takes away from the image.
        self._padding: NDArray[np.int64] | None = None

    @property
    def n_clipped(self) -> int:
        return sum(lane.n_clipped for lane in self._lanes)

    def add(self, part: Part, lane: int) -> None:
        """Count a part, after those of the same voxels in the channels before."""
        try:
            self._add(part, self._lanes[lane])
        finally:
            part.release()

    def _add(self, part: Part, lane: _LaneCounts) -> None:
        p, voxels = part.p, slice(part.start, part.stop)
        if len(self._not_padding):
            # Without a background channel padding is 0 in all channels.
            padding = 0 if self._has_regions or part.channel else 1
            self._not_padding[voxels] |= p != padding
        for name, codes in self._codes.items():
            n_bad, n_clipped = lane.count(part, name, codes[voxels])
        if n_bad:
            lane.note_bad(p)
        if n_clipped:
            lane.n_clipped += n_clipped
            p = np.clip(p, 0, 1)
        if self._has_regions:
            self._follow_regions(p, part.channel, voxels)
        else:
            self._follow_labels(p, part.channel, voxels, lane)
        if part.channel == self._labels.n_channels - 1:
            self._settle(voxels, lane)

    def _follow_regions(self, p: NDArray, channel: int, voxels: slice) -> None:
        self._winner[voxels][p > 0.5] = channel + 1  # later regions overwrite earlier ones

    def _follow_labels(self, p: NDArray, channel: int, voxels: slice, lane: _LaneCounts) -> None:
        largest, winner = self._largest[voxels], self._winner[voxels]
        total = self._total[voxels]
        if len(self._total):
            total += p
        elif channel:  # two classes: the first one's probability is the largest so far
            total = largest + p
        if channel == self._labels.n_channels - 1:
            lane.sum_error = max(lane.sum_error, float(np.abs(total - 1).max()))
        if channel:
            both = np.flatnonzero((p > 0.5) & (largest > 0.5))
            if len(both):
                wins = p[both] > largest[both]
                loser = np.where(wins, winner[both], channel)
                self._count_top(lane.losers, np.minimum(p, largest)[both], loser, both, voxels)
        larger = p > largest  # the first of equal ones wins
        winner[larger] = channel
        np.maximum(largest, p, out=largest)

    def _settle(self, voxels: slice, lane: _LaneCounts) -> None:
        """All channels of these voxels are there."""
        winner = self._winner[voxels]
        for name, codes in self._codes.items():
            count_pairs(codes[voxels], winner, lane.pairs[name])
        if not self._has_regions:
            largest = self._largest[voxels]
            unsure = np.flatnonzero(largest <= 0.5)
            if len(unsure):
                self._count_top(lane.unsure, largest[unsure], winner[unsure], unsure, voxels)

    def _count_top(
        self,
        counters: dict[str, Counter],
        p: NDArray,
        channel: NDArray,
        where: NDArray[np.intp],
        voxels: slice,
    ) -> None:
        for name, all_codes in self._codes.items():
            codes = all_codes[voxels][where]
            right = np.where(codes == self._labels.nowhere, 2, codes == channel)
            counters[name].add(p, right.astype(np.uint8))

    def check(self, file: ProbabilityFile) -> None:
        """After all parts: could these be probabilities?

        Raises:
            InputError: they could not.
        """
        if n := sum(lane.n_not_finite for lane in self._lanes):
            raise InputError(
                f"{file.path}: expected probabilities, found {n} values NaN or infinite"
            )
        low = min(lane.low for lane in self._lanes)
        high = max(lane.high for lane in self._lanes)
        if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
            raise InputError(
                f"{file.path}: expected probabilities in [0, 1], got {low:g} to {high:g}"
            )
        worst, tolerance = (
            max(lane.sum_error for lane in self._lanes),
            SUM_TOLERANCE[file.dtype.name],
        )
        if worst > tolerance:
            raise InputError(
                f"{file.path}: expected probabilities that sum to 1 over the classes within "
                f"{tolerance:g}, found a voxel that misses it by {worst:.3g}"
            )

    def remove_padding(self, codes: NDArray[np.unsignedinteger], order: str) -> None:
        """Find what ``crop`` leaves out; its values are known, so that sums need no voxels."""
        box = bounding_box(self._not_padding.reshape(codes.shape, order=order))
        n_codes = self._labels.nowhere + 1
        self._padding = np.bincount(codes.ravel(), minlength=n_codes)
        if box is not None:
            self._padding -= np.bincount(codes[box].ravel(), minlength=n_codes)

    def sums(self, region: str, voxel_ml: float) -> RegionSums:
        """The sums over a region."""
        counted_as = "image" if region == "crop" else region
        pairs = sum(lane.pairs[counted_as] for lane in self._lanes)
        if region == "crop":
            pairs[:, 0] -= self._padding
        predicted_label = self._labels.predicted_label
        channels = []
        for channel, y_of_code in enumerate(self._of_channel):
            key = channel, counted_as
            parts = [lane.counted[key] for lane in self._lanes if key in lane.counted]
            cells = CellTotals(self._grid.n_cells)
            for part in parts:
                cells.add(part.cells)
            if region == "crop":
                cells.add(self._minus_padding(channel))
            members = self._labels.channel_members(channel)
            predicted = np.isin(predicted_label, members)
            table = pairs[y_of_code < 2]
            y = y_of_code[y_of_code < 2] == 1
            counted = Counted(
                cells.total(),
                math.fsum(part.squared_minus for part in parts),
                math.fsum(part.squared_plus for part in parts),
                math.fsum(part.log_likelihood for part in parts),
            )
            channels.append(
                class_sums(
                    counted,
                    tp=int(table[y][:, predicted].sum()),
                    fp=int(table[~y][:, predicted].sum()),
                    fn=int(table[y][:, ~predicted].sum()),
                    voxel_ml=voxel_ml,
                )
            )
        top = None if self._has_regions else self._top_label(counted_as, channels)
        return RegionSums(tuple(channels), top)

    def _top_label(self, region: str, channels: Sequence[ClassSums]) -> Cells:
        cells = CellTotals(self._grid.n_cells)
        for sums in channels:
            cells.add(sums.cells.between(self._grid.first_above_half, self._grid.n_cells))
        for lane in self._lanes:
            cells.add(lane.unsure[region].counted().cells)
            cells.add(_negative(lane.losers[region].counted().cells))
        return cells.total()

    def _minus_padding(self, channel: int) -> Cells:
        y = self._of_channel[channel]
        count = np.array([[self._padding[y == value].sum() for value in (0, 1)]])
        if channel == 0 and not self._has_regions:
            return _negative(
                Cells(np.array([self._grid.n_cells - 1], np.int32), count, count * 1.0)
            )
        return _negative(Cells(np.array([0], np.int32), count, count * 0.0))

    def distances_mm(
        self, codes: NDArray[np.unsignedinteger], spacing_mm: Sequence[float], order: str
    ) -> tuple[dict[str, float], ...]:
        """Surface distances of each class over the whole image."""
        winner = self._winner.reshape(codes.shape, order=order)
        labels = self._labels
        result = []
        for i in range(len(labels.classes)):
            y = labels.y_of_code(labels.members(i))[codes]
            predicted = np.isin(labels.predicted_label, labels.members(i))[winner]
            result.append(surface_distances_mm(y == 1, predicted & (y < 2), spacing_mm))
        return tuple(result)


class _LaneCounts:
    """What one thread counted."""

    def __init__(self, case: _Counts) -> None:
        self._grid, self._of_channel = case._grid, case._of_channel
        labels, regions = case._labels, case._codes
        right = np.array([0, 1, 2], np.uint8)
        self._counters: dict[tuple[int, str], Counter] = {}
        self.counted: dict[tuple[int, str], Counted] = {}
        self.unsure = {name: Counter(self._grid, right) for name in regions}
        self.losers = {name: Counter(self._grid, right) for name in regions}
        n_codes, n_winners = labels.nowhere + 1, len(labels.predicted_label)
        self.pairs = {name: np.zeros((n_codes, n_winners), np.int64) for name in regions}
        self.n_clipped = 0
        self.n_not_finite = 0
        self.low, self.high = 0.0, 1.0
        self.sum_error = 0.0

    def count(self, part: Part, region: str, codes: NDArray[np.unsignedinteger]) -> tuple[int, int]:
        """Count a part in a region; see :meth:`Counter.add`."""
        key = part.channel, region
        if key not in self._counters:
            self._counters[key] = Counter(self._grid, self._of_channel[part.channel])
        result = self._counters[key].add(part.p, codes)
        if part.left < _LANES:  # no more of this channel comes here: keep what holds voxels
            self.counted[key] = self._counters.pop(key).counted()
        return result

    def note_bad(self, p: NDArray) -> None:
        """Some of these are no probabilities."""
        finite = p[np.isfinite(p)]
        self.n_not_finite += len(p) - len(finite)
        self.low = min(self.low, float(finite.min(initial=0)))
        self.high = max(self.high, float(finite.max(initial=1)))


def _negative(cells: Cells) -> Cells:
    return Cells(cells.index, -cells.count, -cells.sum_p)


class _Lane:
    """A thread that works on what it is given in order."""

    def __init__(self, stack: ExitStack) -> None:
        self._pool = stack.enter_context(ThreadPoolExecutor(1))
        self.futures: list[Future] = []

    def submit(self, function: Any, *args: Any) -> None:
        self.futures.append(self._pool.submit(function, *args))


@contextmanager
def _threads() -> Iterator[list[_Lane]]:
    with ExitStack() as stack:
        lanes = [_Lane(stack) for _ in range(_LANES)]
        yield lanes
        for lane in lanes:
            for future in lane.futures:
                future.result()
