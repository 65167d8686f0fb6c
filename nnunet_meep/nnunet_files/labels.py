"""The labels, regions and ignore label in nnU-Net's ``dataset.json``.

Follows the rules of nnU-Net's ``LabelManager``, but does not need torch.
"""

from __future__ import annotations

import json
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
        classes: the foreground labels in ascending order, or the regions (a tuple of labels, or
            a single label, each) in the order of ``dataset.json``.
        names: name of each class.
        values: every label that a segmentation may have, including background, ascending.
        ignore_label: voxels with this label are left out; None if there is no such label.
        regions_class_order: the label that each region gets in the segmentation; empty if the
            classes are labels.
    """

    classes: tuple[int | tuple[int, ...], ...]
    names: tuple[str, ...]
    values: tuple[int, ...]
    ignore_label: int | None
    regions_class_order: tuple[int, ...]

    @property
    def is_region_based(self) -> bool:
        """True if the classes are nnU-Net's regions, which may overlap (sigmoid, not softmax)."""
        return bool(self.regions_class_order)

    @property
    def keys(self) -> tuple[str, ...]:
        """``str(label_or_region)`` of each class, as in nnU-Net's ``summary.json``."""
        return tuple(str(c) for c in self.classes)

    @property
    def n_channels(self) -> int:
        """Channels of a probability file: all labels including background, or the regions."""
        return len(self.classes) if self.is_region_based else len(self.values)

    def channel(self, class_index: int) -> int:
        """The channel of a probability file that has the probabilities of a class."""
        if self.is_region_based:
            return class_index
        return self.values.index(self.classes[class_index])

    @property
    def ignored_code(self) -> int:
        """The code of ignored voxels. Smaller codes are indices into ``values``."""
        return len(self.values)

    def encode(self, segmentation: NDArray[Any]) -> NDArray[np.unsignedinteger]:
        """Convert a label map to codes: index into ``values``, or ``ignored_code`` where ignored.

        Args:
            segmentation: labels of any dtype, (*shape).

        Returns:
            (*shape), uint8 if that is enough, else uint16. It may be ``segmentation`` itself.

        Raises:
            UnknownLabels: a label is neither in ``values`` nor the ignore label.
        """
        known = self.values if self.ignore_label is None else (*self.values, self.ignore_label)
        small = np.uint8 if known[-1] < np.iinfo(np.uint8).max else np.uint16
        labels = self._as(segmentation, small)
        if labels is None:
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

    @staticmethod
    def _as(segmentation: NDArray[Any], dtype: type[np.unsignedinteger]) -> NDArray[Any] | None:
        """The label map in a small dtype, a copy only if it has another; None if it has others."""
        if segmentation.dtype == dtype:
            return segmentation
        labels = np.empty(segmentation.shape, dtype)
        for i, part in enumerate(segmentation):  # slice by slice, to stay in the cache
            with np.errstate(invalid="ignore"):  # a NaN is found below, as it equals no integer
                labels[i] = part
            if not np.array_equal(labels[i], part):
                return None
        return labels

    def y_of_code(self, members: Collection[int]) -> NDArray[np.uint8]:
        """For each code: 1 if its label is in ``members``, 0 if not, 2 for ``ignored_code``."""
        return np.array([*(v in members for v in self.values), 2], np.uint8)

    def members(self, class_index: int) -> tuple[int, ...]:
        """The labels that belong to a class: one, or those of the region."""
        members = self.classes[class_index]
        return (members,) if isinstance(members, int) else members

    def channel_members(self, channel: int) -> tuple[int, ...]:
        """The labels whose probability a channel of a probability file has."""
        if self.is_region_based:
            return self.members(channel)
        return (self.values[channel],)

    @property
    def predicted_label(self) -> tuple[int, ...]:
        """For each winner, the label that nnU-Net writes into the segmentation.

        For labels, the winner of a voxel is the channel with the largest p (argmax). For regions it
        is 0 if no channel has p > 1/2, and otherwise 1 + the last channel with p > 1/2.
        """
        if not self.is_region_based:
            return self.values
        return (0, *self.regions_class_order)


class UnknownLabels(ValueError):
    """A segmentation has labels that the data set does not; ``args[0]`` lists their values."""


def read_labels(dataset_json: dict[str, Any], path: Path) -> Labels:
    """The labels of a parsed ``dataset.json``; ``path`` is named in errors.

    Raises:
        InputError: ``labels`` or ``regions_class_order`` are not as nnU-Net needs them, or a
            segmentation written in this order cannot represent the regions. The message, one line,
            lists all mistakes.
    """
    entries = dataset_json.get("labels")
    if not isinstance(entries, dict):
        raise InputError(
            f'{path}: expected "labels" with "background": 0 as in nnU-Net\'s dataset.json, '
            f"got {_as_json(entries)}"
        )
    foreground = {k: v for k, v in entries.items() if k not in ("background", "ignore")}
    has_regions = any(isinstance(value, list) and len(value) > 1 for value in foreground.values())
    named = {name: _members(value) for name, value in foreground.items()}
    if has_regions:  # nnU-Net ignores regions that consist only of background
        named = {name: members for name, members in named.items() if set(members or ()) != {0}}
    known = {name: members for name, members in named.items() if members is not None}
    complete = len(known) == len(named)
    values = tuple(sorted({0, *(m for members in known.values() for m in members)}))
    mistakes = _mistakes_of_entries(entries, named)
    mistakes += _mistakes_of_names(known if has_regions else {"background": (0,), **known})
    if complete:  # otherwise the labels are not all known
        mistakes += _mistakes_of_values(values, entries.get("ignore"), has_regions)
    order: Any = dataset_json.get("regions_class_order")
    if has_regions:
        mistakes += _mistakes_of_order(order, named, values if complete else None)
    if mistakes:
        raise InputError(f"{path}: {'; '.join(mistakes)}")
    if has_regions:
        return Labels(
            classes=tuple(
                members if isinstance(entries[name], list) else members[0]
                for name, members in known.items()
            ),
            names=tuple(known),
            values=values,
            ignore_label=entries.get("ignore"),
            regions_class_order=tuple(order),
        )
    # Without regions, each entry is one label, possibly written as a list of one.
    name_of = {label: name for name, (label,) in known.items()}
    return Labels(
        classes=values[1:],
        names=tuple(name_of[label] for label in values[1:]),
        values=values,
        ignore_label=entries.get("ignore"),
        regions_class_order=(),
    )


def _members(value: Any) -> tuple[int, ...] | None:
    """The labels in an entry of ``labels``; None if it is neither a label nor a region."""
    members = value if isinstance(value, list) else [value]
    # Not isinstance: True is an int, too.
    if members and all(type(m) is int and m >= 0 for m in members):
        return tuple(members)
    return None


def _mistakes_of_entries(
    entries: dict[str, Any], named: dict[str, tuple[int, ...] | None]
) -> list[str]:
    """Mistakes in single entries of ``labels``."""
    mistakes = []
    background = entries.get("background")
    if type(background) is not int or background != 0:
        mistakes.append(f'expected "background": 0 in "labels", got {_as_json(background)}')
    for name, members in named.items():
        if not name.isprintable():
            mistakes.append(f"expected a name in one line of text, got {_as_json(name)}")
        got = f"got {_as_json(entries[name])}"
        if members is None:
            mistakes.append(
                f"expected a label or a list of labels (whole numbers >= 0) for {_as_json(name)}, "
                f"{got}"
            )
        elif len(set(members)) < len(members):
            mistakes.append(f"expected each label once in {_as_json(name)}, {got}")
    if "ignore" in entries and type(entries["ignore"]) is not int:
        mistakes.append(
            f'expected one label (a whole number) for "ignore", got {_as_json(entries["ignore"])}'
        )
    return mistakes


def _mistakes_of_names(known: dict[str, tuple[int, ...]]) -> list[str]:
    """Labels or regions that have several names; the results could use only one of them."""
    names_of: dict[tuple[int, ...], list[str]] = {}
    for name, members in known.items():
        names_of.setdefault(tuple(sorted(set(members))), []).append(_as_json(name))
    return [
        f"expected one name for {members[0] if len(members) == 1 else list(members)}, "
        f"got {' and '.join(names)}"
        for members, names in names_of.items()
        if len(names) > 1
    ]


def _mistakes_of_values(values: tuple[int, ...], ignore: Any, has_regions: bool) -> list[str]:
    """Mistakes in the set of all labels."""
    mistakes = []
    if values == (0,):
        mistakes.append("expected at least one label beside the background, got none")
    if not has_regions and values != tuple(range(len(values))):
        mistakes.append(f"expected labels 0, 1, 2, ... without gaps, got {list(values)}")
    if values[-1] >= np.iinfo(np.uint16).max:
        mistakes.append(
            f"expected labels below {np.iinfo(np.uint16).max} (nnU-Net writes segmentations in 16 "
            f"bits), got {values[-1]}"
        )
    if type(ignore) is int and ignore != values[-1] + 1:
        mistakes.append(f'expected the highest label, {values[-1] + 1}, for "ignore", got {ignore}')
    return mistakes


def _mistakes_of_order(
    order: Any, named: dict[str, tuple[int, ...] | None], values: tuple[int, ...] | None
) -> list[str]:
    """Mistakes in ``regions_class_order``.

    nnU-Net writes the regions one after the other, each with its label in the order, so a voxel
    keeps the label of the last region it is in. When the segmentation is read again, this label
    must belong to exactly the regions that the voxel is in. Otherwise even a perfect prediction has
    a Dice below 1. It does if inner regions come after outer ones, and each is written with a label
    that no region within it has. If regions overlap only in part, there may be no valid order.

    Args:
        order: ``regions_class_order`` of ``dataset.json``.
        named: {name of a region: its labels, or None if the entry is not a region}.
        values: all labels; None if they are not all known.
    """
    labels = order if isinstance(order, list) else []
    mistakes = []
    if len(labels) != len(named):
        mistakes.append(
            f'expected "regions_class_order" with {len(named)} labels, one for each region, '
            f"got {_as_json(order)}"
        )
    wrong = [
        label
        for label in labels
        if type(label) is not int or label <= 0 or (values is not None and label not in values)
    ]
    if wrong:
        possible = "" if values is None else f", of {[v for v in values if v]},"
        mistakes.append(
            f'expected labels beside the background{possible} in "regions_class_order", '
            f"got {', '.join(map(_as_json, wrong))}"
        )
    if mistakes or values is None:
        return mistakes
    regions = {name: members for name, members in named.items() if members is not None}
    mistakes = [
        f"expected a label of {_as_json(name)}, {list(members)}, in its place in "
        f'"regions_class_order", got {label}'
        for (name, members), label in zip(regions.items(), labels, strict=True)
        if label not in members
    ]
    if mistakes:
        return mistakes
    written = {0: 0}
    for members, label in zip(regions.values(), labels, strict=True):
        written |= dict.fromkeys(members, label)
    lost = [
        f"{value} written as {label}"
        for value, label in written.items()
        if any((value in members) != (label in members) for members in regions.values())
    ]
    if lost:
        mistakes.append(
            'expected inner regions after outer ones, each with a label in "regions_class_order" '
            f"that is in no region within it, got {', '.join(lost)}"
        )
    return mistakes


def _as_json(value: Any) -> str:
    """A value as JSON in one line, as in the file."""
    return json.dumps(value, ensure_ascii=False)
