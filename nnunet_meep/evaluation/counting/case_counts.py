"""The counts of a case while its probabilities are read.

Arrays over all voxels are kept only for the reference and, unless there are regions, for the
largest probability so far, its channel, and the sum over the channels. The last serves to check
that probabilities sum to 1; the channel gives the segmentation.

Top-label metrics need cells of each voxel's largest probability. Most are known from the cells of
the classes, because a probability above 1/2 is the largest one. Only voxels without a probability
above 1/2, and those with two (rounding), are counted separately.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.evaluation.counting.bins import (
    SUBCELLS,
    Cells,
    CellTotals,
    ClassSums,
    Grid,
    RoiSums,
)
from nnunet_meep.evaluation.counting.class_counts import ClassCounts, class_sums, loops_for
from nnunet_meep.evaluation.counting.lane_counts import N_LANES, LaneCounts
from nnunet_meep.evaluation.counting.predicted import PredictedVoxels
from nnunet_meep.evaluation.counting.reference import Reference
from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.evaluation.counting.surface import bounding_box, surface_metrics
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import (
    SUM_TOLERANCE,
    Part,
    ProbabilityArray,
    ProbabilityFile,
    refuse_sums,
    refuse_values,
)


def is_2d(shape: tuple[int, ...], spacing_mm: Sequence[float]) -> bool:
    """Whether an image has no thickness, and hence no volume.

    nnU-Net adds a first axis of length 1 to 2D images and gives it 999 times the spacing.
    """
    return shape[0] == 1 and spacing_mm[0] >= 999 * max(spacing_mm[1:])


def voxel_ml(shape: tuple[int, ...], spacing_mm: Sequence[float]) -> float:
    """Volume of a voxel of an image with this shape and voxel size; NaN for 2D images."""
    return math.nan if is_2d(shape, spacing_mm) else math.prod(spacing_mm) / 1000


class CaseCounts:
    """The counts of a case so far. Arrays over voxels are in the memory order of the file.

    Attributes:
        winner: after the last part, the segmentation as indices into ``segmented_label``, (N,).
        segmented_label: the label that each value of ``winner`` stands for.
        predicted: the probabilities where the evaluated segmentation has each class. After the last
            part they are there, except those of regions whose segmentation was not known before.
    """

    def __init__(
        self,
        labels: Labels,
        grid: Grid,
        reference: Reference,
        rois: Sequence[Roi],
        file: ProbabilityFile | ProbabilityArray,
        segmentation: NDArray[np.unsignedinteger] | None = None,
    ) -> None:
        """Start with nothing counted.

        Args:
            labels: the classes.
            grid: the cells.
            reference: the label maps of the case.
            rois: the ROIs to count.
            file: the probabilities.
            segmentation: codes of the segmentation file, (*shape), if that will be evaluated; None
                if the segmentation follows from the probabilities.
        """
        self.labels, self.grid, self._reference, self._file = labels, grid, reference, file
        n_voxels = reference.codes.size
        self._has_regions = labels.is_region_based
        # Codes to count for each ROI. crop is counted as image; its padding is subtracted later.
        self.codes = {
            name: codes.ravel(file.order) for name, codes in reference.codes_of(rois).items()
        }
        self.of_channel = [
            labels.y_of_code(labels.channel_members(c)) for c in range(labels.n_channels)
        ]
        self.segmented_label = labels.predicted_label
        self._is_argmax = True
        n_winners = len(labels.predicted_label)
        self.winner = np.zeros(n_voxels, np.uint8 if n_winners <= 256 else np.uint16)
        exact = np.float64 if file.dtype.itemsize == 8 else np.float32
        self._largest = np.zeros(0 if self._has_regions else n_voxels, exact)
        self._total = np.zeros(n_voxels if labels.n_channels > 2 else 0, exact)
        self._sum_tolerance = SUM_TOLERANCE[file.dtype.name]
        finds_padding = any(r.without_padding for r in rois)
        self._not_padding = np.zeros(n_voxels if finds_padding else 0, np.bool_)
        self.loops = loops_for(n_voxels)
        if segmentation is None:
            winners = self.winner, self.segmented_label
        else:
            winners = segmentation.ravel(file.order), labels.values
        self._is_known = segmentation is not None
        self.predicted = PredictedVoxels(labels, *winners, self.loops)
        self._lanes = [
            LaneCounts(labels, grid, self.of_channel, tuple(self.codes), self.loops)
            for _ in range(N_LANES)
        ]

    @property
    def n_clipped(self) -> int:
        return sum(lane.n_clipped for lane in self._lanes)

    def add(self, part: Part, lane: int) -> None:
        """Count a part. The same voxels of all previous channels must have been counted before."""
        try:
            self._add(part, self._lanes[lane])
        finally:
            part.release()

    def _add(self, part: Part, lane: LaneCounts) -> None:
        p, voxels = part.p, slice(part.start, part.stop)
        if len(self._not_padding):
            # Padding has p = 1 in the background channel and p = 0 elsewhere; regions have no
            # background channel.
            padding = 0 if self._has_regions or part.channel else 1
            self._not_padding[voxels] |= p != padding
        for name, codes in self.codes.items():
            n_bad, n_clipped = lane.count(part, name, codes[voxels])
        if n_bad:
            lane.note_bad(p)
        if n_clipped:
            lane.n_clipped += n_clipped
            p = np.clip(p, 0, 1)
        if self._is_known:
            self.predicted.add(part)
        is_last = part.channel == self.labels.n_channels - 1
        if self._has_regions:
            # Later regions overwrite earlier ones.
            self.winner[voxels][p > 0.5] = part.channel + 1
        else:
            self._follow(p, part.channel, voxels, lane, is_last)
        if is_last:
            for name, codes in self.codes.items():
                self.loops.count_pairs(codes[voxels], self.winner[voxels], lane.pairs[name])

    def _follow(
        self, p: NDArray[np.floating], channel: int, voxels: slice, lane: LaneCounts, is_last: bool
    ) -> None:
        largest, winner, total = self._largest[voxels], self.winner[voxels], self._total[voxels]
        if channel == 0:
            largest[:] = p
            if len(total):
                total[:] = p
            return
        n_both, n_off = self.loops.compare_with_largest(p, largest, total, self._sum_tolerance)
        if n_off and is_last:
            sums = total if len(total) else largest + p
            lane.sum_error = max(lane.sum_error, float(np.abs(sums - 1).max()))
        if n_both:
            both = np.flatnonzero((p > 0.5) & (largest > 0.5))
            loser = np.where(p[both] > largest[both], winner[both], channel)
            self._count_top(lane.losers, np.minimum(p, largest)[both], loser, both, voxels)
        n_unsure = self.loops.take_larger(p, channel, largest, winner)
        if n_unsure and is_last:
            unsure = np.flatnonzero(largest <= 0.5)
            self._count_top(lane.unsure, largest[unsure], winner[unsure], unsure, voxels)

    def _count_top(
        self,
        counters: dict[str, Any],
        p: NDArray[np.floating],
        channel: NDArray[np.unsignedinteger],
        where: NDArray[np.intp],
        voxels: slice,
    ) -> None:
        for name, all_codes in self.codes.items():
            codes = all_codes[voxels][where]
            right = np.where(codes == self.labels.ignored_code, 2, codes == channel)
            counters[name].add(p, right.astype(np.uint8))

    def check(self) -> None:
        """Refuse values that cannot be probabilities; call this after the last part.

        Raises:
            InputError: values are not finite, outside [0, 1], or do not sum to 1 over the classes.
        """
        self._total = np.zeros(0)  # not needed any more, as _largest below
        path = self._file.path
        refuse_values(
            path,
            sum(lane.n_not_finite for lane in self._lanes),
            min(lane.low for lane in self._lanes),
            max(lane.high for lane in self._lanes),
        )
        refuse_sums(path, max(lane.sum_error for lane in self._lanes), self._file.dtype)
        if not self._is_known and not self._has_regions:
            self.predicted.add_largest(self._largest)
        self._largest = np.zeros(0)

    def compare_segmentation(self, codes: NDArray[np.unsignedinteger]) -> int:
        """Number of voxels where a segmentation differs from that of the probabilities.

        Args:
            codes: codes of the segmentation, (*shape).
        """
        n, values = 0, self.labels.values
        code_of = np.array([values.index(v) for v in self.segmented_label], codes.dtype)
        winner = self.winner.reshape(codes.shape, order=self._file.order)
        for mine, theirs in zip(winner, codes, strict=True):
            # Without regions, winners are codes already; a look-up would take ten times as long.
            mine_codes = code_of[mine] if self._has_regions else mine
            n += int(np.count_nonzero(mine_codes != theirs))
        return n

    def take_segmentation(self, codes: NDArray[np.unsignedinteger]) -> None:
        """Replace the segmentation that follows from the probabilities by ``codes``, (*shape)."""
        self.winner = np.array(codes.ravel(self._file.order))
        self.segmented_label, self._is_argmax = self.labels.values, False

    def _pairs(self, roi: Roi, padding: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Number of voxels for each code of the reference (row) and each winner (column)."""
        if not self._is_argmax:
            shape = self.labels.ignored_code + 1, len(self.segmented_label)
            table = np.zeros(shape, np.int64)
            self.loops.count_pairs(self.codes_in(roi), self.winner, table)
            return table
        of_lanes = [lane.pairs[roi.counted_as] for lane in self._lanes]
        pairs: NDArray[np.int64] = np.sum(of_lanes, axis=0)
        if padding is not None:
            pairs[:, 0] -= padding
        return pairs

    def sums_of(self, roi: Roi) -> RoiSums:
        """The sums over the voxels of an ROI."""
        ml = voxel_ml(self._reference.codes.shape, self._reference.spacing_mm)
        counted_as = roi.counted_as
        padding = self._padding(counted_as) if roi.without_padding else None
        pairs = self._pairs(roi, padding)
        channels = []
        for channel, y_of_code in enumerate(self.of_channel):
            key = channel, counted_as
            parts = [lane.counted[key] for lane in self._lanes if key in lane.counted]
            cells = CellTotals(self.grid.n_cells)
            for part in parts:
                cells.add(part.cells)
            if padding is not None:
                cells.add(self._minus_padding(padding, channel))
            members = self.labels.channel_members(channel)
            predicted = np.isin(self.segmented_label, members)
            table = pairs[y_of_code < 2]
            y = y_of_code[y_of_code < 2] == 1
            counted = ClassCounts(
                cells.total(),
                math.fsum(part.squared_minus for part in parts),
                math.fsum(part.squared_plus for part in parts),
                math.fsum(part.log_likelihood for part in parts),
            )
            channels.append(
                class_sums(
                    counted,
                    expected_overlap=self.predicted.expected_overlap(
                        channel, self._unless_all_count(counted_as), self.labels.ignored_code
                    ),
                    tp=int(table[y][:, predicted].sum()),
                    fp=int(table[~y][:, predicted].sum()),
                    fn=int(table[y][:, ~predicted].sum()),
                    voxel_ml=ml,
                )
            )
        top = None if self._has_regions else self._top_label(counted_as, channels)
        return RoiSums(tuple(channels), top)

    def _unless_all_count(self, counted_as: str) -> NDArray[np.unsignedinteger] | None:
        """The codes of an ROI; None if it is the whole image, and nothing in it is ignored."""
        is_whole = counted_as not in self._reference.restricted
        return None if is_whole and self.labels.ignore_label is None else self.codes[counted_as]

    def _top_label(self, roi: str, channels: Sequence[ClassSums]) -> Cells:
        cells = CellTotals(self.grid.n_cells)
        for sums in channels:
            cells.add(sums.cells.between(self.grid.first_above_half, self.grid.n_cells))
        for lane in self._lanes:
            cells.add(lane.unsure[roi].counted().cells)
            cells.add(_negative(lane.losers[roi].counted().cells))
        return cells.total()

    def codes_in(self, roi: Roi) -> NDArray[np.unsignedinteger]:
        """Codes of the reference, with ``ignored_code`` outside of an ROI, (N,)."""
        codes = self.codes[roi.counted_as]
        if not roi.without_padding:
            return codes
        shape, order = self._reference.codes.shape, self._file.order
        inside = np.zeros(shape, np.bool_, order=order)
        if (box := self._crop()) is not None:
            inside[box] = True
        return np.where(inside.ravel(order), codes, codes.dtype.type(self.labels.ignored_code))

    def _crop(self) -> tuple[slice, ...] | None:
        shape = self._reference.codes.shape
        return bounding_box(self._not_padding.reshape(shape, order=self._file.order))

    def _padding(self, counted_as: str) -> NDArray[np.int64]:
        """For each code, how many of the counted voxels are padding, where p is known."""
        shape, order = self._reference.codes.shape, self._file.order
        codes = self.codes[counted_as].reshape(shape, order=order)
        n_codes = self.labels.ignored_code + 1
        padding = np.bincount(codes.ravel(), minlength=n_codes)
        if (box := self._crop()) is not None:
            padding -= np.bincount(codes[box].ravel(), minlength=n_codes)
        return padding

    def _minus_padding(self, padding: NDArray[np.int64], channel: int) -> Cells:
        y = self.of_channel[channel]
        count = np.array([[padding[y == value].sum() for value in (0, 1)]])
        if channel == 0 and not self._has_regions:  # background: p = 1
            last = np.array([(self.grid.n_cells - 1) * SUBCELLS], np.int32)
            return _negative(Cells(last, count, count.astype(np.float64)))
        return _negative(Cells(np.array([0], np.int32), count, np.zeros((1, 2))))

    def predicted_mask(self, class_index: int) -> NDArray[np.bool_]:
        """Where the evaluated segmentation has a class, over the whole image, (*shape).

        Voxels with the ignore label are left out.
        """
        codes, labels = self._reference.codes, self.labels
        winner = self.winner.reshape(codes.shape, order=self._file.order)
        has_class = np.flatnonzero(np.isin(self.segmented_label, labels.members(class_index)))
        # Comparisons are faster than looking each voxel up in a table.
        mask: NDArray[np.bool_] = reduce(np.logical_or, (winner == i for i in has_class))
        return mask if labels.ignore_label is None else mask & (codes != labels.ignored_code)

    def predicted_p(self, class_index: int) -> NDArray[np.floating]:
        """The probabilities of a class at the voxels of :meth:`predicted_mask`.

        They are there at the end of :func:`.sum_case`.

        Returns:
            (n,) in the C order of the mask, so that ``image[mask] = p`` puts them in their places.
            float32 in [0, 1]; float64 if the file is.
        """
        codes, order = self._reference.codes, self._file.order
        p = self.predicted.where_counted(
            self.labels.channel(class_index),
            None if self.labels.ignore_label is None else codes.ravel(order),
            self.labels.ignored_code,
        )
        if order == "C":
            return p
        mask = self.predicted_mask(class_index)
        image = np.zeros(mask.shape, p.dtype)
        image.T[mask.T] = p  # the transpose has the order of the file
        return image[mask]

    def surface_metrics(self, tolerance_mm: float) -> tuple[dict[str, float], ...]:
        """Distances and agreement of the surfaces of each class over the whole image."""
        reference, labels = self._reference, self.labels
        return tuple(
            surface_metrics(
                reference.mask(labels, i),
                self.predicted_mask(i),
                reference.spacing_mm,
                tolerance_mm,
            )
            for i in range(len(labels.classes))
        )


def _negative(cells: Cells) -> Cells:
    return Cells(cells.index, -cells.count, -cells.sum_p)
