"""What nnU-Net's ``dataset.json`` says about labels, regions and the ignore label.

The same rules as nnU-Net's ``LabelManager``, without torch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError


@dataclass(frozen=True)
class Labels:
    """The classes of a data set.

    Attributes:
        classes: the foreground labels in ascending order, or the regions (tuples of labels, or
            a single label) in the order of ``dataset.json``.
        names: name of each class.
        values: every label that a segmentation may hold, background included, ascending.
        ignore_label: the label whose voxels count nowhere.
        regions_class_order: the label that each region writes into the segmentation; None for
            labels (softmax), given for regions (sigmoid).
    """

    classes: tuple[int | tuple[int, ...], ...]
    names: tuple[str, ...]
    values: tuple[int, ...]
    ignore_label: int | None
    regions_class_order: tuple[int, ...] | None

    @property
    def keys(self) -> tuple[str, ...]:
        """``str(label_or_region)`` of each class, as in nnU-Net's ``summary.json``."""
        return tuple(str(c) for c in self.classes)

    @property
    def n_channels(self) -> int:
        """Channels of a probability file: all labels with background, or the regions."""
        return len(self.values) if self.regions_class_order is None else len(self.classes)

    def channel(self, class_index: int) -> int:
        """The channel of a probability file that holds the class."""
        if self.regions_class_order is not None:
            return class_index
        return self.values.index(self.classes[class_index])

    @property
    def nowhere(self) -> int:
        """The code of voxels that count nowhere; below it are the indices into ``values``."""
        return len(self.values)

    def encode(self, segmentation: NDArray[Any]) -> NDArray[np.unsignedinteger]:
        """Codes of a label map: index into ``values``, or ``nowhere`` for the ignore label.

        Args:
            segmentation: labels in any type, (*shape).

        Returns:
            (*shape), uint8 where that is enough, else uint16.

        Raises:
            UnknownLabels: there are others than these.
        """
        known = self.values if self.ignore_label is None else (*self.values, self.ignore_label)
        small = np.uint8 if known[-1] < np.iinfo(np.uint8).max else np.uint16
        labels = np.empty(segmentation.shape, small)
        for i, part in enumerate(segmentation):  # in parts that stay in the cache
            with np.errstate(invalid="ignore"):  # NaN as an integer: found unequal below
                labels[i] = part
            if not np.array_equal(labels[i], part):
                raise UnknownLabels(np.setdiff1d(segmentation, known))
        if known == tuple(range(len(known))):
            unknown = labels.max(initial=0) >= len(known)  # the codes are the labels
        else:
            none = len(known)
            table = np.full(np.iinfo(small).max + 1, none, small)
            table[list(known)] = np.arange(len(known))
            labels = table[labels]
            unknown = labels.max(initial=0) == none
        if unknown:
            raise UnknownLabels(np.setdiff1d(segmentation, known))
        return labels

    def y_of_code(self, members: Collection[int]) -> NDArray[np.uint8]:
        """For each code whether it is one of some labels: 1, 0, or 2 for ``nowhere``."""
        return np.array([*(v in members for v in self.values), 2], np.uint8)

    def members(self, class_index: int) -> tuple[int, ...]:
        """The labels of a class."""
        members = self.classes[class_index]
        return (members,) if isinstance(members, int) else members

    def channel_members(self, channel: int) -> tuple[int, ...]:
        """The labels whose probability a channel holds."""
        if self.regions_class_order is not None:
            return self.members(channel)
        return (self.values[channel],)

    @property
    def predicted_label(self) -> tuple[int, ...]:
        """The label that nnU-Net's segmentation gets for each winner.

        Winners are channels for labels (argmax). For regions they are 0 where no p > 1/2, and
        otherwise 1 + the last channel in ``regions_class_order`` with p > 1/2.
        """
        if self.regions_class_order is None:
            return self.values
        return (0, *self.regions_class_order)


class UnknownLabels(ValueError):
    """Labels that a data set does not have; ``args[0]`` are their values."""


def read_labels(dataset_json: dict[str, Any], path: Path) -> Labels:
    """The labels of a parsed ``dataset.json``; ``path`` is named in errors.

    Raises:
        InputError: the ``labels`` are missing or not what nnU-Net takes.
    """
    entries = dataset_json.get("labels")
    if not isinstance(entries, dict) or entries.get("background") != 0:
        raise InputError(
            f'{path}: expected "labels" with "background": 0 as in nnU-Net\'s dataset.json, '
            f"got {entries!r}"
        )
    for name, value in entries.items():
        members = value if isinstance(value, list) else [value]
        if not members or not all(type(m) is int and m >= 0 for m in members):
            raise InputError(
                f'{path}: label "{name}" must be a label or a list of labels (integers >= 0), '
                f"got {value!r}"
            )
    ignore_label = entries.get("ignore")
    foreground = {
        name: value if isinstance(value, int) else tuple(value)
        for name, value in entries.items()
        if name != "ignore" and (value if isinstance(value, int) else set(value)) not in (0, {0})
    }
    has_regions = any(isinstance(v, tuple) and len(v) > 1 for v in foreground.values())
    members = [m for v in foreground.values() for m in (v if isinstance(v, tuple) else (v,))]
    values = tuple(sorted({0, *members}))
    if ignore_label is not None and ignore_label != values[-1] + 1:
        raise InputError(
            f"{path}: the ignore label must be the highest label, {values[-1] + 1}, "
            f"got {ignore_label!r}"
        )
    if values[-1] >= np.iinfo(np.uint16).max:
        raise InputError(
            f"{path}: expected labels below {np.iinfo(np.uint16).max}, got {values[-1]}; nnU-Net "
            f"writes segmentations in 16 bits"
        )
    if has_regions:
        order = dataset_json.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(foreground):
            raise InputError(
                f'{path}: expected "regions_class_order" with {len(foreground)} labels, one for '
                f"each region, got {order!r}"
            )
        return Labels(
            classes=tuple(foreground.values()),
            names=tuple(foreground),
            values=values,
            ignore_label=ignore_label,
            regions_class_order=tuple(order),
        )
    if not foreground or values != tuple(range(len(values))):
        raise InputError(
            f"{path}: expected labels 0, 1, 2, ... without gaps and at least one beside the "
            f"background, got {list(values)}"
        )
    # A list of one label is that label.
    by_label = {v[0] if isinstance(v, tuple) else v: name for name, v in foreground.items()}
    return Labels(
        classes=values[1:],
        names=tuple(by_label[v] for v in values[1:]),
        values=values,
        ignore_label=ignore_label,
        regions_class_order=None,
    )
